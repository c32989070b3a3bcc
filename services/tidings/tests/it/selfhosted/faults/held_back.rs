//! A change that cannot be routed: the slot stands before it for as long as that is so, and moves on afterwards.

use super::super::{
    servers::Servers,
    stack::{Stack, until},
};

/// What others write meanwhile, all of it behind the change.
const FILLED_BYTES: i64 = 4_000_000;

/// Where an insert and its commit end at the latest, counted from where it began.
const CHANGE_BYTES: i64 = 64_000;

/// How far the slot's confirmed position stands behind `from`.
async fn confirmed_since(stack: &Stack, from: &str) -> i64 {
    let slot = &stack.namespace;
    let sql = format!(
        "select pg_wal_lsn_diff(confirmed_flush_lsn, '{from}')::bigint from pg_replication_slots where slot_name = '{slot}'"
    );
    stack.psql(&sql).await.parse().unwrap()
}

#[tokio::test]
async fn the_slot_does_not_pass_a_change_that_no_queue_takes() {
    let mut stack = Stack::prepare(Servers::shared().await, &[]).await;
    stack.provision().await;
    // Nobody restores what a person takes away.
    stack.set("TIDINGS_TOPOLOGY", "verify");
    stack.up_all().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let first = stack.publish("before").await;
    assert_eq!(stack.finished(&first).await["deliveries"]["sent"], 1);

    let (exchange, queue) = (stack.name("notifications"), stack.name("mail"));
    stack.servers.rabbitmq.unbind(&stack.amqp, &exchange, &queue).await;
    let began = stack.psql("select pg_current_wal_insert_lsn()").await;
    let id =
        stack.psql("insert into items (topic, message) values ('messages', 'held back') returning id").await;
    let watcher = stack.process("cdc-watcher");
    watcher.until_it_says("cdc-watcher: changes", "no queue is bound").await;
    let fill = format!("select count(pg_logical_emit_message(false, 'fill', repeat('x', {FILLED_BYTES})))");
    stack.psql(&fill).await;
    // The watcher goes on trying, and reporting: what it tells the server after all of this is its position.
    let tried = watcher.total("tidings_changes_republished_total").await;
    let told = format!(
        "select extract(epoch from reply_time) from pg_stat_replication
        join pg_replication_slots on active_pid = pid where slot_name = '{}'",
        stack.namespace
    );
    let filled_at: f64 = stack.psql("select extract(epoch from clock_timestamp())").await.parse().unwrap();
    until("it has tried and told", async || {
        watcher.total("tidings_changes_republished_total").await >= tried + 5.0
            && stack.psql(&told).await.parse::<f64>().is_ok_and(|at| at > filled_at + 1.0)
    })
    .await;
    let stands = confirmed_since(&stack, &began).await;
    assert!(stands < CHANGE_BYTES, "{stands} bytes past where the change begins");
    assert_eq!(stack.mails("held back"), 0);

    // By this process's own word or by the server's alone: the next one gets it again.
    stack.kill("cdc-watcher").await;
    stack.launch("cdc-watcher").await;
    let watcher = stack.process("cdc-watcher");
    watcher.until_it_says("cdc-watcher: changes", "no queue is bound").await;
    assert!(confirmed_since(&stack, &began).await < CHANGE_BYTES);

    stack.servers.rabbitmq.bind(&stack.amqp, &exchange, &queue).await;
    let status = stack.finished(&id).await;
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    until("the slot moves on", async || confirmed_since(&stack, &began).await > FILLED_BYTES).await;
    watcher.until_ready().await;
    assert_eq!(stack.mails("held back"), 1);
}
