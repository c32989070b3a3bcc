//! Tests run against servers whose addresses people give, and take away what they made there.

use std::process::Command;

use tidings_servers::{
    postgres::Postgres,
    rabbitmq::RabbitMq,
    redis::{Redis, RedisOptions},
};
use tokio::time::{Duration, Instant, sleep};

use crate::redis::ask_all;

/// Waits until `answer` is `wanted`: what a process made goes a moment after its end.
async fn wait_for<T: PartialEq + std::fmt::Debug>(wanted: T, mut answer: impl AsyncFnMut() -> T) {
    let began = Instant::now();
    loop {
        let found = answer().await;
        if found == wanted {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{found:?} instead of {wanted:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Runs tests of this program that share a server, with the address of one; answers what they print.
fn share(tests: &[&str], variables: &[(&str, String)]) -> String {
    let program = std::env::current_exe().expect("a test knows its program");
    let output = Command::new(program)
        .args(tests)
        .args(["--exact", "--nocapture"])
        .envs(variables.iter().map(|(name, value)| (name, value)))
        .output()
        .expect("a test's program can be started");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.contains(&format!("{} passed", tests.len())), "{printed}");
    printed
}

#[tokio::test]
async fn with_postgres_databases_and_slots_are_made_there_and_go() {
    let postgres = Postgres::start().await;
    postgres.psql("postgres", "create database people").await;
    let variables = [("DATABASE_URL", postgres.url("people"))];
    share(&["given::with_postgres_leaves_a_slot"], &variables);
    let left = "select string_agg(datname, ' ' order by datname) from pg_database where not datistemplate";
    wait_for("people postgres".to_owned(), async || postgres.psql("postgres", left).await).await;
    assert_eq!(postgres.psql("postgres", "select count(*) from pg_replication_slots").await, "0");
}

/// Run by the test above: a database that a slot holds.
#[tokio::test]
async fn with_postgres_leaves_a_slot() {
    let postgres = Postgres::shared().await;
    let url = postgres.database().await;
    let database = url.rsplit('/').next().expect("a URL has a path");
    let slot = format!("select pg_create_logical_replication_slot('{database}', 'pgoutput')");
    postgres.psql(database, &slot).await;
}

#[tokio::test]
async fn with_rabbitmq_virtual_hosts_are_made_there_and_go() {
    let rabbitmq = RabbitMq::start().await;
    let variables = [("AMQP_URL", rabbitmq.url("/")), ("RABBITMQ_MANAGEMENT_URL", rabbitmq.management_url())];
    share(&["rabbitmq::with_rabbitmq_virtual_hosts_are_apart"], &variables);
    wait_for("name\n/".to_owned(), async || rabbitmq.ctl(&["list_vhosts"]).await).await;
}

#[tokio::test]
async fn with_redis_databases_are_taken_there_and_go() {
    let options = RedisOptions { password: Some("secret".to_owned()), ..RedisOptions::default() };
    let redis = Redis::start_with(options).await;
    let ask = async |commands: &[&str]| {
        let answers = ask_all(redis.addr(), &[&["AUTH secret"], commands].concat()).await;
        answers.last().expect("one answer at least").clone()
    };
    // Somebody's, whom a test must not disturb.
    assert_eq!(ask(&["SELECT 1", "SET kept value"]).await, "+OK");
    let printed = share(&["given::with_redis_leaves_a_key"], &[("REDIS_URL", redis.url(0))]);
    assert!(printed.contains("took 2 and 3"), "the first that are empty: {printed}");
    assert_eq!(ask(&["STRLEN seen"]).await, ":5", "it was this server");
    assert_eq!(ask(&["SELECT 1", "DBSIZE"]).await, ":1");
    for number in [2, 3] {
        wait_for(":0".to_owned(), async || ask(&[&format!("SELECT {number}"), "DBSIZE"]).await).await;
    }
    wait_for(":1".to_owned(), async || ask(&["DBSIZE"]).await).await;
}

/// Run by the test above: keys in the database that the URL names and in two of its own.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the test above reads it")]
async fn with_redis_leaves_a_key() {
    let redis = Redis::shared().await;
    let of_its_own = [redis.database(), redis.database()];
    let numbers = of_its_own.each_ref().map(|url| url.rsplit('/').next().expect("a URL has a path"));
    println!("took {}", numbers.join(" and "));
    let password = redis.url(0).contains("secret").then_some("AUTH secret");
    let select = numbers.map(|number| format!("SELECT {number}"));
    let commands = ["SET seen value", &select[0], "SET key value", &select[1], "SET key value"];
    let commands: Vec<&str> = password.into_iter().chain(commands).collect();
    assert!(ask_all(redis.addr(), &commands).await.iter().all(|answer| answer == "+OK"));
}
