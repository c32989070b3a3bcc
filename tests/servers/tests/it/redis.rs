use std::net::SocketAddr;

use tidings_servers::redis::Redis;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::stream;

async fn ask(redis: &Redis, command: &str) -> String {
    ask_all(redis.addr(), &[command]).await.pop().expect("one answer")
}

/// The first line of the answer to each command.
pub(crate) async fn ask_all(address: SocketAddr, commands: &[&str]) -> Vec<String> {
    let mut stream = BufReader::new(TcpStream::connect(address).await.expect("it listens"));
    let mut answers = Vec::new();
    for command in commands {
        stream.write_all(format!("{command}\r\n").as_bytes()).await.expect("it reads");
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("it answers");
        answers.push(line.trim().to_owned());
    }
    answers
}

#[tokio::test]
async fn with_redis_flush_stop_and_kill_lose_what_it_holds() {
    let redis = Redis::start().await;
    assert_eq!(ask(&redis, "SET key value").await, "+OK");
    assert_eq!(ask(&redis, "EXISTS key").await, ":1");
    redis.flush().await;
    assert_eq!(ask(&redis, "EXISTS key").await, ":0");

    ask(&redis, "SET key value").await;
    redis.stop().await;
    assert!(TcpStream::connect(redis.addr()).await.is_err(), "it is down");
    redis.start_again().await;
    assert_eq!(ask(&redis, "EXISTS key").await, ":0");

    ask(&redis, "SET key value").await;
    redis.kill().await;
    redis.start_again().await;
    assert_eq!(ask(&redis, "EXISTS key").await, ":0");
}

#[tokio::test]
async fn with_redis_frozen_answers_nobody_and_thawed_goes_on() {
    let redis = Redis::start().await;
    redis.freeze();
    let mut stream = stream::connect(redis.addr()).await;
    assert_eq!(stream::ask(&mut stream, b"PING\r\n", stream::SHORT).await, None);
    redis.thaw();
    assert_eq!(stream::ask(&mut stream, b"", stream::LONG).await.as_deref(), Some(&b"+PONG\r\n"[..]));
}

#[tokio::test]
async fn with_redis_databases_are_apart() {
    let redis = Redis::shared().await;
    assert_ne!(redis.database(), redis.database());
}
