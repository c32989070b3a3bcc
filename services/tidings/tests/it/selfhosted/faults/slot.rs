//! A slot that is gone: nothing is skipped, the watcher says so, and `tidings recover` mends it.
#![expect(clippy::print_stdout, reason = "what a run has seen is shown with --nocapture")]

use serde_json::Value;
use tidings_servers::postgres::{Postgres, PostgresOptions};

use super::{
    super::{
        servers::{Either, Servers},
        stack::{Stack, until},
    },
    load::Load,
};

/// The watcher's part that has the stream.
const STREAM: &str = "cdc-watcher: changes";

/// Under load: the gap is seen and told, nothing moves meanwhile but what needs no stream, and a person mends it.
async fn recovers(mut stack: Stack, load: Load, says: &str) {
    let watcher = stack.process("cdc-watcher");
    let report = watcher.until_it_says(STREAM, "until `tidings recover` was run").await;
    println!("{}", report["parts"][STREAM]["reason"]);
    assert!(report["parts"][STREAM]["reason"].as_str().unwrap().contains(says), "{report:#}");
    assert_eq!(report["parts"][STREAM]["state"], "stopped", "{report:#}");
    until("the gauge shows it", async || watcher.total("tidings_changes_gap").await == 1.0).await;
    // Accepting and storing go on; a watcher that starts anew does not make the slot either.
    load.until_accepted_more(40).await;
    stack.kill("cdc-watcher").await;
    stack.launch("cdc-watcher").await;
    let watcher = stack.process("cdc-watcher");
    watcher.until_it_says(STREAM, says).await;
    println!("{}", stack.done(&["recover"]).await);
    watcher.until_ready().await;
    until("the gauge shows it", async || watcher.total("tidings_changes_gap").await == 0.0).await;
    load.until_accepted_more(40).await;
    let again = stack.done(&["recover"]).await;
    assert!(again.contains("the slot needed nothing"), "{again}");
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}

#[tokio::test]
async fn a_slot_that_was_dropped_is_recovered() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    load.until_accepted_more(60).await;
    let ours = format!("from pg_replication_slots where slot_name = '{}'", stack.namespace);
    until("the slot is gone", async || {
        // Its reader comes back at once: both in one statement, and again.
        let drop = format!(
            "select pg_terminate_backend(active_pid, 5000) {ours} and active;
            do $$ begin
                perform pg_drop_replication_slot(slot_name) {ours};
            exception when object_in_use then null;
            end $$;
            select count(*) {ours};"
        );
        stack.psql(&drop).await.ends_with('0')
    })
    .await;
    recovers(stack, load, "the slot is missing").await;
}

#[tokio::test]
async fn a_slot_that_was_invalidated_is_recovered() {
    let settings = [("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB"), ("max_wal_size", "32MB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let (shared, postgres) = tokio::join!(Servers::shared(), Postgres::start_with(options));
    let servers = Servers { postgres: Either::Own(postgres), ..shared };
    let mut stack = Stack::start_on(servers, &[]).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    load.until_accepted_more(60).await;
    stack.stop("cdc-watcher").await;
    load.until_accepted_more(20).await;
    let slot = stack.namespace.clone();
    until("the server has given the slot up", async || {
        let fill = format!(
            "select count(pg_logical_emit_message(false, 'fill', repeat('x', 1000000))) from generate_series(1, 20);
            select count(pg_switch_wal()); checkpoint;
            select wal_status from pg_replication_slots where slot_name = '{slot}'"
        );
        stack.psql(&fill).await.ends_with("lost")
    })
    .await;
    stack.launch("cdc-watcher").await;
    recovers(stack, load, "the slot is invalidated").await;
}
