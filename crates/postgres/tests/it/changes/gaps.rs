//! What has to stop the stream: it is never skipped, and nothing is made anew in silence.

use tidings_domain::{Error, ErrorKind, ports::DependencyState};
use tidings_servers::postgres::{Postgres, PostgresOptions};

use super::rig::{Rig, error, nothing_comes, numbers, open, refusal, state, take, texts, until};

fn is_gap(error: &Error, words: &str) {
    assert_eq!(error.kind, ErrorKind::Gap, "{}", error.chain());
    assert!(error.chain().contains(words), "{:?} is not in {}", words, error.chain());
}

/// Opening says *gap* with these words, each time; provisioning too, and it makes nothing.
async fn stays_a_gap(rig: &Rig, words: &str) {
    let store = rig.store();
    for _ in 0..2 {
        is_gap(&refusal(&store).await, words);
    }
    let is_down =
        |state: &DependencyState| matches!(state, DependencyState::Down(why) if why.contains(words));
    state(&store, "it is down", is_down).await;
    is_gap(&store.provision().await.unwrap_err(), words);
    let missing = store.check().await.unwrap();
    assert!(missing.iter().any(|missing| missing.contains(words)), "{missing:?}");
    store.close().await;
}

/// A person makes it anew; what is inserted from then on comes.
async fn recovers(rig: &Rig, server: &Postgres, words: &str) {
    let store = rig.store();
    let recovered = store.recover_slot().await.unwrap().expect("there is a gap");
    assert_eq!(recovered.slot, rig.namespace);
    assert!(recovered.was.contains(words), "{recovered:?}");
    assert_eq!(rig.slot(server, "wal_status").await, "reserved");
    let mut stream = open(&store).await;
    rig.insert(server, 100..=101).await;
    let captured = take(&mut *stream, 2).await;
    assert_eq!(texts(&captured), numbers(100..=101));
    stream.confirm(captured[1].position).await.unwrap();
    assert_eq!(store.recover_slot().await.unwrap(), None);
    drop(stream);
    assert!(store.check().await.unwrap().is_empty());
    store.provision().await.unwrap();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_was_dropped() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.insert(server, 1..=2).await;
    rig.sql(server, &format!("select pg_drop_replication_slot('{}')", rig.namespace)).await;
    stays_a_gap(&rig, "the slot is missing").await;
    recovers(&rig, server, "the slot is missing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_somebody_made_anew() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.insert(server, 1..=2).await;
    rig.sql(server, &format!("select pg_drop_replication_slot('{}')", rig.namespace)).await;
    rig.sql(server, &format!("select pg_create_logical_replication_slot('{}', 'pgoutput')", rig.namespace))
        .await;
    stays_a_gap(&rig, "made anew or moved by somebody else").await;
    recovers(&rig, server, "made anew or moved").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_plugin() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.sql(server, &format!("select pg_drop_replication_slot('{}')", rig.namespace)).await;
    rig.sql(
        server,
        &format!("select pg_create_logical_replication_slot('{}', 'test_decoding')", rig.namespace),
    )
    .await;
    stays_a_gap(&rig, "another's").await;
    let refused = rig.store().recover_slot().await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured, "{}", refused.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_another_installation_made() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let mut other = Rig::bare(server).await;
    other.namespace = rig.namespace.clone();
    let refused = other.store().provision().await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured, "{}", refused.chain());
    assert!(refused.context.contains("choose another namespace"), "{}", refused.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_the_server_invalidated() {
    let settings = [
        ("max_slot_wal_keep_size", "1MB"),
        ("wal_keep_size", "0"),
        ("max_wal_size", "64MB"),
        ("min_wal_size", "32MB"),
    ];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let server = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await;
    let rig = Rig::on(&server).await;
    rig.insert(&server, 1..=2).await;
    until("the slot is lost", async || {
        rig.sql(&server, "create table if not exists filler (t text); insert into filler select repeat('x', 8000) from generate_series(1, 2000); select pg_switch_wal(); checkpoint;")
            .await;
        rig.slot(&server, "wal_status").await == "lost"
    })
    .await;
    stays_a_gap(&rig, "the slot is invalidated").await;
    recovers(&rig, &server, "the slot is invalidated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.sql(server, "update change_stream set system_id = '7000000000000000000'").await;
    stays_a_gap(&rig, "another cluster").await;
    recovers(&rig, server, "another cluster").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_dropped() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.sql(server, &format!("drop publication {}", rig.namespace)).await;
    rig.insert(server, 1..=2).await;
    stays_a_gap(&rig, "the publication is missing").await;
    recovers(&rig, server, "the publication is missing").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_was_made_anew() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.sql(server, &format!("drop publication {}", rig.namespace)).await;
    rig.insert(server, 1..=2).await;
    rig.sql(
        server,
        &format!("create publication {} for table items with (publish = 'insert')", rig.namespace),
    )
    .await;
    stays_a_gap(&rig, "not the one that the slot was made for").await;
    recovers(&rig, server, "not the one that the slot was made for").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_out_of_the_publication_for_a_while() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let alter = async |what: &str| {
        rig.sql(server, &format!("alter publication {} {what} table items", rig.namespace)).await;
    };
    alter("drop").await;
    rig.insert(server, 1..=2).await;
    alter("add").await;
    stays_a_gap(&rig, "not the one that the slot was made for").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_with_a_filter() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.sql(server, &format!("alter publication {} set table items where (topic = 'other')", rig.namespace))
        .await;
    let store = rig.store();
    assert_eq!(refusal(&store).await.kind, ErrorKind::Gap);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_younger_than_the_slot() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.sql(server, &format!("drop publication {}", rig.namespace)).await;
    rig.insert(server, 1..=2).await;
    rig.sql(
        server,
        &format!("create publication {} for table items with (publish = 'insert')", rig.namespace),
    )
    .await;
    // As if our row knew it so: only the changes themselves show it.
    rig.sql(
        server,
        "update change_stream set publication = p.oid, published_table = r.oid
        from pg_publication p join pg_publication_rel r on r.prpubid = p.oid where p.pubname = slot",
    )
    .await;
    let store = rig.store();
    let mut stream = open(&store).await;
    let error = error(&mut *stream).await;
    is_gap(&error, "made after the slot");
    drop(stream);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_of_ours_that_lags_is_no_gap() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=2).await;
    let captured = take(&mut *stream, 2).await;
    stream.confirm(captured[1].position).await.unwrap();
    store.close().await;
    // The slot's own position never leads.
    let leads = "select s.confirmed_flush_lsn <= c.confirmed from change_stream c join pg_replication_slots s on s.slot_name = c.slot";
    assert_eq!(rig.sql(server, leads).await, "t");
    let store = rig.store();
    let mut stream = open(&store).await;
    nothing_comes(&mut *stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn provisioning_that_was_cut_off_is_gone_through_again() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    rig.sql(server, "update change_stream set made_at = null").await;
    let store = rig.store();
    assert_eq!(refusal(&store).await.kind, ErrorKind::Misconfigured);
    let missing = store.check().await.unwrap();
    assert_eq!(missing, [format!("replication slot {}", rig.namespace)]);
    store.provision().await.unwrap();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=1).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_logical_replication_is_refused() {
    let settings = vec![("wal_level".to_owned(), "replica".to_owned())];
    let server = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await;
    let rig = Rig::bare(&server).await;
    let refused = rig.store().provision().await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured, "{}", refused.chain());
    assert!(refused.context.contains("wal_level is replica"), "{}", refused.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_free_slot_is_refused() {
    let settings = vec![("max_replication_slots".to_owned(), "1".to_owned())];
    let server = Postgres::start_with(PostgresOptions { settings, ..PostgresOptions::default() }).await;
    server.psql("postgres", "select pg_create_physical_replication_slot('other')").await;
    let rig = Rig::bare(&server).await;
    let refused = rig.store().provision().await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Misconfigured, "{}", refused.chain());
    assert!(refused.context.contains("max_replication_slots"), "{}", refused.chain());
    server.psql("postgres", "select pg_drop_replication_slot('other')").await;
    rig.store().provision().await.unwrap();
}
