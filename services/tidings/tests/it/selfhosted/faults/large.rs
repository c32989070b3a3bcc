//! A transaction of many rows through a slow broker.
#![expect(clippy::print_stdout, reason = "what a run has seen is shown with --nocapture")]

use std::time::Duration;

use serde_json::Value;
use tidings_servers::proxy::Proxy;
use tokio::time::Instant;

use super::super::{servers::Servers, stack::Stack};
use crate::harness::PATIENCE;

/// What the slow broker takes, in bytes a second. A record of a small row is some 700 bytes.
const SLOW: u32 = 2_000_000;

/// The most memory that a watcher may have held.
const MOST_KB: u64 = 128 * 1024;

const PUBLISHED: &str = "tidings_changes_published_total";

/// Waits until the watcher has published so many; patience begins anew with each step forward.
async fn until_published(stack: &Stack, count: f64) -> f64 {
    let (mut last, mut moved_at) = (-1.0, Instant::now());
    loop {
        let published = stack.process("cdc-watcher").total(PUBLISHED).await;
        if published >= count {
            return published;
        }
        if published > last {
            (last, moved_at) = (published, Instant::now());
        }
        assert!(
            moved_at.elapsed() < PATIENCE,
            "{published} of {count}\n{}",
            stack.process("cdc-watcher").log()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The most memory that the watcher has held.
fn high_water_kb(stack: &Stack) -> u64 {
    let status = format!("/proc/{}/status", stack.process("cdc-watcher").pid());
    let status = std::fs::read_to_string(status).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_large_transaction_ends_through_a_slow_broker_and_killed_watchers() {
    let rows = super::number("TIDINGS_TEST_ROWS", 200_000);
    let mut stack = Stack::prepare(Servers::shared().await, &[]).await;
    stack.provision().await;
    let slow = Proxy::to(stack.servers.rabbitmq.addr()).await;
    let url = slow.url(stack.setting("AMQP_URL"));
    stack.make("cdc-watcher", &["cdc-watcher"]).set("AMQP_URL", &url);
    stack.up_all().await;
    let at_rest = high_water_kb(&stack);
    slow.throttle(SLOW);
    let began = Instant::now();
    let insert = "insert into items (topic, message) select 'messages', 'row ' || number";
    stack.psql(&format!("{insert} from generate_series(1, {rows}) as number")).await;
    println!("{rows} rows written in {:?}", began.elapsed());

    // Each life publishes a part of it. What it has confirmed is recorded once a second, and not published again.
    let (mut published, mut highest) = (0.0, 0);
    for part in [rows / 20, rows / 4] {
        let here = until_published(&stack, part as f64).await;
        println!("{here} published, then killed");
        published += here;
        highest = highest.max(high_water_kb(&stack));
        stack.kill("cdc-watcher").await;
        stack.launch("cdc-watcher").await;
    }
    slow.throttle(0);
    let (mut last, mut moved_at) = (String::new(), Instant::now());
    loop {
        let finished = stack.psql("select count(*) from notifications where finished").await;
        highest = highest.max(high_water_kb(&stack));
        if finished == rows.to_string() {
            break;
        }
        if finished != last {
            (last, moved_at) = (finished, Instant::now());
        }
        assert!(moved_at.elapsed() < PATIENCE, "{last} of {rows}\n{}", stack.process("cdc-watcher").log());
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    published += stack.process("cdc-watcher").total(PUBLISHED).await;
    println!(
        "{rows} rows: {published} published in three lives, {:?}; at most {highest} kB, {at_rest} kB at rest",
        began.elapsed()
    );
    assert!(highest < MOST_KB, "{highest} kB");
    // Begun anew each time, it would be all that was published before, once more.
    let again = published - rows as f64;
    assert!(again < rows as f64 * 0.2, "{again} were published again");
    assert_eq!(stack.dead_letters().await, Vec::<Value>::new());
    assert_eq!(stack.psql("select count(*) from notifications").await, rows.to_string());
    // And what comes after it.
    let id = stack.publish("after the large one").await;
    assert_eq!(stack.finished(&id).await["state"], "done");
}
