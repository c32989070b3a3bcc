use tidings_servers::redis::Redis;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

async fn ask(redis: &Redis, command: &str) -> String {
    let mut stream = BufReader::new(TcpStream::connect(redis.addr()).await.expect("it listens"));
    stream.write_all(format!("{command}\r\n").as_bytes()).await.expect("it reads");
    let mut line = String::new();
    stream.read_line(&mut line).await.expect("it answers");
    line.trim().to_owned()
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
