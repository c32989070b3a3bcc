//! Faults of Postgres.
#![expect(clippy::print_stdout, reason = "what a run has seen is shown with --nocapture")]

use serde_json::Value;
use tidings_servers::postgres::{Postgres, PostgresOptions, StopMode};
use tokio::task::JoinSet;

use super::{
    super::{
        servers::{Either, Servers},
        stack::{ROLES, Stack, until},
    },
    hogs::Hogs,
    load::Load,
};

/// A mail that was taken is settled when the server is back: nothing of it is unknown, unless that takes longer than this. What a
/// statement has leased whose answer was lost waits for as long; patience is longer.
const LONG_LEASE: (&str, &str) = ("TIDINGS_MAILER_LEASE_MS", "50000");

const PUBLISHED: &str = "tidings_changes_published_total";

async fn start(settings: &[(&str, &str)]) -> Stack {
    let stack = Stack::start_on(Servers::with_own_postgres().await, settings).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    stack
}

async fn all_ready(stack: &Stack) {
    for role in ROLES {
        stack.process(role).until_ready().await;
    }
}

/// Where the server says that the slot stands.
async fn slot_position(stack: &Stack) -> String {
    let slot = &stack.namespace;
    stack
        .psql(&format!("select confirmed_flush_lsn from pg_replication_slots where slot_name = '{slot}'"))
        .await
}

#[tokio::test]
async fn a_database_that_is_stopped_fast_and_at_once_mid_stream_loses_nothing() {
    let stack = start(&[LONG_LEASE]).await;
    let load = Load::on(&stack);
    for mode in [StopMode::Fast, StopMode::Immediate, StopMode::Fast] {
        load.until_accepted_more(60).await;
        stack.servers.postgres.stop(mode).await;
        load.until_accepted_more(20).await;
        stack.servers.postgres.start_again().await;
        all_ready(&stack).await;
    }
    load.until_accepted_more(40).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}

#[tokio::test]
async fn a_database_that_is_killed_makes_the_watcher_publish_again_and_mails_nobody_twice() {
    let mut stack = start(&[LONG_LEASE]).await;
    // Everything that is published also lies here, to be counted.
    let rabbitmq = &stack.servers.rabbitmq;
    rabbitmq.declare_queue(&stack.amqp, "counted", "{}").await;
    rabbitmq.bind(&stack.amqp, &stack.name("notifications"), "counted").await;
    let load = Load::on(&stack);
    for with_watcher in [false, true, true] {
        load.until_accepted_more(40).await;
        let mut lock = JoinSet::new();
        lock.spawn(hold_position(&stack));
        let published = stack.process("cdc-watcher").total(PUBLISHED).await;
        until("much is published and not recorded", async || {
            stack.process("cdc-watcher").total(PUBLISHED).await >= published + 30.0
        })
        .await;
        let before = slot_position(&stack).await;
        stack.servers.postgres.kill().await;
        // Its own memory of what it has published is gone with it.
        if with_watcher {
            stack.kill("cdc-watcher").await;
        }
        lock.shutdown().await;
        load.until_accepted_more(20).await;
        stack.servers.postgres.start_again().await;
        println!("the slot stood at {before}, now at {}", slot_position(&stack).await);
        if with_watcher {
            stack.launch("cdc-watcher").await;
        }
        all_ready(&stack).await;
    }
    load.until_accepted_more(40).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
    // The management counts every few seconds.
    let wanted = figures.accepted as u64 + 30;
    until("changes were published again", async || depth(&stack, "counted").await >= wanted).await;
    println!("{} published, for {} messages", depth(&stack, "counted").await, figures.accepted);
}

/// Keeps the watcher from recording how far it is, until the server or whoever polls this ends.
fn hold_position(stack: &Stack) -> impl Future<Output = ()> + Send + 'static {
    let database = stack.database.clone();
    async move {
        let hold = "begin; select from change_stream for update; select pg_sleep(600)";
        let mut psql = tokio::process::Command::new("psql");
        psql.args(["-qAtX", "-d", &database, "-c", hold]).kill_on_drop(true);
        let _ended_with_the_server = psql.output().await;
    }
}

/// How many messages lie in a queue.
async fn depth(stack: &Stack, queue: &str) -> u64 {
    let vhost = stack.amqp.rsplit('/').next().unwrap();
    let url = format!("{}/api/queues/{vhost}/{queue}", stack.servers.rabbitmq.management_url());
    let told: Value = stack.client.get(url).send().await.unwrap().json().await.unwrap();
    told["messages"].as_u64().unwrap_or_default()
}

#[tokio::test]
async fn a_database_that_is_away_takes_no_attempt_and_every_post_is_accepted() {
    let stack = start(&[LONG_LEASE]).await;
    let load = Load::on(&stack);
    load.until_accepted_more(60).await;
    // Nothing of the mails is under way, so that none can be unknown.
    load.pause().await;
    load.ledger().settled(&stack).await;
    let refused = load.refused();
    stack.servers.postgres.stop(StopMode::Fast).await;
    load.resume();
    load.until_accepted_more(super::number("TIDINGS_TEST_POSTS", 400) as usize).await;
    for role in ["subscriber", "mailer", "cdc-watcher"] {
        stack.process(role).until("not ready", |report| report["ready"] == false).await;
    }
    let report = stack.process("api").readiness().await;
    assert!(report["ready"] == true && report["degraded"] == true, "{report:#}");
    stack.servers.postgres.start_again().await;
    all_ready(&stack).await;
    assert_eq!(load.refused(), refused, "every POST was accepted");
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}

#[tokio::test]
async fn a_database_without_a_free_connection_is_waited_for() {
    let settings = vec![("max_connections".to_owned(), "40".to_owned())];
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let (shared, postgres) = tokio::join!(Servers::shared(), Postgres::start_with(options));
    let servers = Servers { postgres: Either::Own(postgres), ..shared };
    let few = [LONG_LEASE, ("TIDINGS_DATABASE_MAX_CONNECTIONS", "4")];
    let stack = Stack::start_on(servers, &few).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    load.until_accepted_more(60).await;
    let mut hogs = Hogs::of(stack.servers.postgres.addr());
    until("nothing is left for the subscriber and the mailer", async || {
        hogs.take_all().await;
        stack.process("subscriber").readiness().await["ready"] == false
            && stack.process("mailer").readiness().await["ready"] == false
    })
    .await;
    load.until_accepted_more(60).await;
    drop(hogs);
    all_ready(&stack).await;
    load.until_accepted_more(40).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}
