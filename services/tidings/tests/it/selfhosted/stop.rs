//! Stopping as asked: nothing is left behind, nothing is mailed twice, no attempt is counted.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    ledger::Load,
    stack::{ROLES, Stack, until},
};

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

    // No connection of ours is left, at either server, and nobody complains.
    stack.stop_all().await;
    for role in ROLES {
        let log = stack.process(role).log();
        let complaints =
            log.lines().filter(|line| line.contains(r#""level":"ERROR""#) || line.contains("cut off"));
        assert_eq!(complaints.collect::<Vec<_>>(), Vec::<&str>::new(), "{role}");
    }
    let sessions = "select count(*) from pg_stat_activity where datname = current_database() and application_name like 'tidings%'";
    until("no session is left", async || stack.psql(sessions).await == "0").await;
    let vhost = stack.vhost();
    until("no connection is left", async || {
        let columns = ["list_connections", "--no-table-headers", "-q", "vhost"];
        !stack.servers.rabbitmq.ctl(&columns).await.lines().any(|line| line.trim() == vhost)
    })
    .await;
    // The broker counts what its queues hold every few seconds.
    until("its queues are empty", async || {
        let columns = ["list_queues", "-p", &vhost, "--no-table-headers", "-q", "name", "messages"];
        let queues = stack.servers.rabbitmq.ctl(&columns).await;
        queues.lines().all(|line| line.split_whitespace().last() == Some("0"))
    })
    .await;
}

#[tokio::test]
async fn a_stop_beside_frozen_servers_ends_within_the_grace_and_loses_nothing() {
    let mut stack = Stack::start_with(&[("TIDINGS_GRACE_S", "4"), ("TIDINGS_MAILER_LEASE_MS", "1000")]).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let id = stack.publish("before the frost").await;
    stack.finished(&id).await;
    let behind = stack.publish("in the frost").await;
    for proxy in [&stack.to_postgres, &stack.to_rabbitmq, &stack.to_redis] {
        proxy.freeze();
    }
    for role in ROLES {
        let began = Instant::now();
        let ended = stack.process_mut(role).stop().await;
        let (took, log) = (began.elapsed(), stack.process(role).log());
        // Cut off is 1 and says so; a panic would be 101.
        assert!(matches!(ended.code(), Some(0 | 1)), "{role} ended with {ended}:\n{log}");
        assert!(took < Duration::from_secs(8), "{role} took {took:?}:\n{log}");
    }
    for proxy in [&stack.to_postgres, &stack.to_rabbitmq, &stack.to_redis] {
        proxy.thaw();
    }
    stack.up_all().await;
    let status = stack.finished(&behind).await;
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    assert_eq!(stack.smtp.mails().len(), 2);
}
