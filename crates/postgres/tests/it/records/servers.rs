//! Servers that refuse, stop, die and freeze.

use std::time::Duration;

use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tidings_domain::{
    ErrorKind,
    ports::{DependencyState, Inserted},
};
use tidings_postgres::Store;
use tidings_servers::{
    postgres::{Postgres, PostgresOptions, StopMode},
    proxy::Proxy,
};

use super::rig::{Rig, database, drop_slot, item, message_id, options, provisioned};

pub(super) async fn foreign(url: &str) -> PgConnection {
    url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap()
}

pub(super) async fn run(connection: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap();
}

/// Another program's transaction that has inserted item 1, so that whoever inserts it too waits.
pub(super) async fn holding_item_1(url: &str) -> PgConnection {
    let mut foreign = foreign(url).await;
    run(&mut foreign, "begin").await;
    sqlx::query("insert into items (id, topic, message) values ($1, 'messages', 'theirs')")
        .bind(message_id(1).0)
        .execute(&mut foreign)
        .await
        .unwrap();
    foreign
}

/// Returns when a session of ours waits for a lock.
pub(super) async fn somebody_waits(connection: &mut PgConnection) {
    so_many_wait(connection, 1).await;
}

/// Returns when so many of them do.
pub(super) async fn so_many_wait(connection: &mut PgConnection, count: i64) {
    let waits = "select count(*) from pg_stat_activity
        where application_name = 'tidings-records' and wait_event_type = 'Lock' and datname = current_database()";
    // Within a transaction the server shows what it showed first, until it is told to look again.
    while sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut *connection).await.unwrap() < count {
        run(connection, "select pg_stat_clear_snapshot()").await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_unavailable_and_then_comes_back() {
    let server = Postgres::shared().await;
    let url = server.database().await;
    let proxy = Proxy::to(server.addr()).await;
    let options = options(&proxy.url(&url));
    provisioned(&options).await.close().await;
    proxy.cut().await;
    let store = Store::new(options.clone()).unwrap();
    assert_eq!(store.dependency().state(), DependencyState::Up, "nothing was asked yet");
    let error = store.items().insert(&[item(1, "a")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "nothing was sent: {}", error.chain());
    assert!(error.context.contains("cannot be reached"), "{}", error.context);
    assert!(matches!(store.dependency().state(), DependencyState::Down(_)));
    assert_eq!(store.items().ping().await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(store.check().await.unwrap_err().kind, ErrorKind::Unavailable);
    proxy.heal().await;
    assert_eq!(store.items().insert(&[item(1, "a")]).await.unwrap(), [Inserted::New]);
    assert_eq!(store.dependency().state(), DependencyState::Up);
    store.close().await;
    assert_eq!(store.items().ping().await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(store.items().insert(&[item(1, "a")]).await.unwrap_err().kind, ErrorKind::Unavailable);
    drop_slot(server, &database(&url), &options.namespace).await;
}

#[tokio::test]
async fn connections_that_are_used_up_are_an_outage_with_its_mend() {
    let settings = vec![("max_connections".to_owned(), "12".to_owned())];
    let server = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await;
    let url = server.database().await;
    let store = provisioned(&options(&url)).await;
    let mut others = Vec::new();
    let refused = loop {
        match url.parse::<PgConnectOptions>().unwrap().connect().await {
            Ok(connection) => others.push(connection),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "53300");
    let store2 = Store::new(options(&url)).unwrap();
    let error = store2.items().insert(&[item(1, "a")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.context.contains("raise max_connections"), "{}", error.context);
    others.pop().unwrap().close().await.unwrap();
    // The server counts the one that left a moment later.
    while store2.items().insert(&[item(1, "a")]).await.is_err() {}
    store.close().await;
}

#[tokio::test]
async fn a_statement_that_takes_too_long_ends() {
    let rig = Rig::new().await;
    let mut options = rig.options.clone();
    options.statement_timeout = Duration::from_millis(500);
    let store = Store::new(options).unwrap();
    let mut other = holding_item_1(&rig.options.url).await;
    let error = store.items().insert(&[item(1, "ours")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unknown, "{}", error.chain());
    assert!(error.context.contains("longer than its limit"), "{}", error.context);
    run(&mut other, "rollback; begin; lock table items in access exclusive mode").await;
    let error = store.items().get(&[message_id(1)]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "{}", error.chain());
    run(&mut other, "rollback").await;
    assert_eq!(store.items().insert(&[item(1, "ours")]).await.unwrap(), [Inserted::New]);
    store.close().await;
    rig.end().await;
}

#[tokio::test]
async fn a_server_killed_under_a_batch_leaves_it_unknown_and_the_same_again_is_harmless() {
    let server = Postgres::start().await;
    let url = server.database().await;
    let store = provisioned(&options(&url)).await;
    let mut other = holding_item_1(&url).await;
    let items = store.items();
    let batch = [item(2, "b"), item(1, "a"), item(3, "c")];
    let (inserted, ()) = tokio::join!(items.insert(&batch), async {
        somebody_waits(&mut other).await;
        server.kill().await;
    });
    assert_eq!(inserted.unwrap_err().kind, ErrorKind::Unknown);
    server.start_again().await;
    assert_eq!(items.insert(&batch).await.unwrap(), [Inserted::New; 3]);
    assert_eq!(items.insert(&batch).await.unwrap(), [Inserted::AlreadyThere; 3]);
    store.close().await;
}

#[tokio::test]
async fn an_answer_that_is_lost_is_unknown_and_what_it_said_is_found_again() {
    let rig = Rig::new().await;
    let proxy = Proxy::to(rig.server.addr()).await;
    let mut options = rig.options.clone();
    options.url = proxy.url(&options.url);
    let store = Store::new(options).unwrap();
    let mut other = holding_item_1(&rig.options.url).await;
    let items = store.items();
    let rows = [item(1, "a")];
    let (inserted, ()) = tokio::join!(items.insert(&rows), async {
        somebody_waits(&mut other).await;
        proxy.close_connections().await;
    });
    assert_eq!(inserted.unwrap_err().kind, ErrorKind::Unknown);
    // The server does not notice that we are gone, and goes on.
    run(&mut other, "rollback").await;
    while rig.sql("select count(*) from items").await == "0" {}
    assert_eq!(items.insert(&rows).await.unwrap(), [Inserted::AlreadyThere]);
    store.close().await;
    rig.end().await;
}

#[tokio::test]
async fn a_frozen_network_ends_every_call_within_its_limit() {
    let rig = Rig::new().await;
    let proxy = Proxy::to(rig.server.addr()).await;
    let mut options = rig.options.clone();
    options.url = proxy.url(&options.url);
    options.statement_timeout = Duration::from_millis(300);
    let store = Store::new(options).unwrap();
    assert_eq!(store.items().insert(&[item(1, "a")]).await.unwrap(), [Inserted::New]);
    proxy.freeze();
    let calls = async {
        let items = store.items();
        let (rows, ids) = ([item(2, "b")], [message_id(1)]);
        let (inserted, got) = tokio::join!(items.insert(&rows), items.get(&ids));
        (inserted.unwrap_err().kind, got.unwrap_err().kind)
    };
    let (inserted, got) = tokio::time::timeout(Duration::from_secs(30), calls).await.expect("no call hangs");
    assert!(matches!(inserted, ErrorKind::Unknown | ErrorKind::Unavailable), "{inserted:?}");
    assert_eq!(got, ErrorKind::Unavailable);
    proxy.thaw();
    let again = store.items().insert(&[item(2, "b")]).await.unwrap();
    assert_ne!(again, [Inserted::Conflict]);
    store.close().await;
    rig.end().await;
}

#[tokio::test]
async fn a_server_that_only_reads_refuses_writes_and_answers_reads() {
    let rig = Rig::new().await;
    let name = &rig.database;
    rig.sql(&format!("alter database {name} set default_transaction_read_only = on")).await;
    let store = rig.another();
    let error = store.items().insert(&[item(1, "a")]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    assert!(error.context.contains("only reads"), "{}", error.context);
    assert_eq!(store.items().get(&[message_id(1)]).await.unwrap(), [None]);
    assert!(store.catalog().installation().await.unwrap().is_some());
    store.close().await;
    rig.server.psql("postgres", &format!("alter database {name} reset default_transaction_read_only")).await;
    rig.end().await;
}

#[tokio::test]
async fn a_restart_makes_no_write_unknown() {
    let server = Postgres::start().await;
    let store = provisioned(&options(&server.database().await)).await;
    let items = store.items();
    for number in 0..3 {
        assert_eq!(items.insert(&[item(number, "before")]).await.unwrap(), [Inserted::New]);
        server.stop(StopMode::Fast).await;
        assert_eq!(
            items.insert(&[item(number + 100, "away")]).await.unwrap_err().kind,
            ErrorKind::Unavailable
        );
        server.start_again().await;
        assert_eq!(items.insert(&[item(number + 100, "after")]).await.unwrap(), [Inserted::New]);
    }
    store.close().await;
}
