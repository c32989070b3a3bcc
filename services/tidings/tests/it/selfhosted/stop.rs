//! Stopping as asked: nothing is left behind, nothing is mailed twice, no attempt is counted.

use serde_json::{Value, json};

use super::{ledger::Load, stack::Stack};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_stopped_under_load_leaves_nothing_behind_and_no_doubles() {
    let mut stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::begin(&stack, 4);
    for role in ["cdc-watcher", "subscriber", "mailer", "api"] {
        load.until_accepted(30).await;
        stack.stop(role).await;
        stack.up(role).await;
    }
    load.until_accepted(30).await;
    let ledger = load.end().await;
    ledger.settled(&stack, "reader@example.com").await;
    for delivery in ledger.deliveries(&stack).await {
        assert_eq!((&delivery["attempts"], &delivery["unknowns"]), (&json!(1), &json!(0)), "{delivery:#}");
    }
    assert_eq!(ledger.doubled(&stack), 0);
    assert_eq!(stack.dead_letters().await, Vec::<Value>::new());

    // No connection of ours is left, at either server.
    stack.stop_all().await;
    let sessions = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'tidings%'";
    assert_eq!(stack.psql(sessions).await, "0");
    let vhost = stack.vhost();
    let connections =
        stack.servers.rabbitmq.ctl(&["list_connections", "--no-table-headers", "-q", "vhost"]).await;
    assert!(!connections.lines().any(|line| line.trim() == vhost), "{connections}");
    let queues = stack
        .servers
        .rabbitmq
        .ctl(&["list_queues", "-p", &vhost, "--no-table-headers", "-q", "name", "messages"])
        .await;
    for line in queues.lines() {
        assert_eq!(line.split_whitespace().last(), Some("0"), "{queues}");
    }
}
