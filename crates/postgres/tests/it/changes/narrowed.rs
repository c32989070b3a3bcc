//! A publication that somebody changes while the slot is read: the server then leaves items out and says nothing.

use std::time::Duration;

use tidings_domain::{ErrorKind, ports::DependencyState};
use tidings_servers::postgres::Postgres;

use super::rig::{Rig, error, open, refusal, state, take, texts};

/// The stream ends by what `narrow` does, before anything behind it is recorded, and stays ended after `restore`.
async fn ends(narrow: &str, restore: &str, words: &str) {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let filled = |statement: &str| statement.replace("{publication}", &rig.namespace);
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=1).await;
    let captured = take(&mut *stream, 1).await;
    stream.confirm(captured[0].position).await.unwrap();
    rig.sql(server, &filled(narrow)).await;
    let narrowed_at = rig.sql(server, "select pg_current_wal_insert_lsn()").await;
    rig.insert(server, 2..=2).await;
    let ended = error(&mut *stream).await;
    assert_eq!(ended.kind, ErrorKind::Gap, "{narrow}: {}", ended.chain());
    assert!(ended.context.contains(words), "{narrow}: {}", ended.chain());
    let is_down =
        |state: &DependencyState| matches!(state, DependencyState::Down(why) if why.contains(words));
    state(&store, "it is down", is_down).await;
    drop(stream);
    store.close().await;
    let recorded = format!("select confirmed <= '{narrowed_at}' from change_stream");
    assert_eq!(rig.sql(server, &recorded).await, "t", "{narrow}");
    // Putting it back does not bring back what was left out meanwhile.
    rig.sql(server, &filled(restore)).await;
    let store = rig.store();
    let refused = refusal(&store).await;
    assert_eq!(refused.kind, ErrorKind::Gap, "{narrow}: {}", refused.chain());
    store.recover_slot().await.unwrap().expect("there is a gap");
    let mut stream = open(&store).await;
    rig.insert(server, 3..=3).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["3"], "{narrow}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_table() {
    ends(
        "alter publication {publication} drop table items",
        "alter publication {publication} add table items",
        "not the one",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_inserts() {
    ends(
        "alter publication {publication} set (publish = 'update')",
        "alter publication {publication} set (publish = 'insert')",
        "leaves new items out",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_filter() {
    ends(
        "alter publication {publication} set table items where (topic = 'other')",
        "alter publication {publication} set table items",
        "leaves new items out",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_table_that_was_made_anew() {
    ends(
        "alter table items rename to old_items; create table items (like old_items including all)",
        "drop table items; alter table old_items rename to items",
        "not the one",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_beside_a_reader_says_what_to_stop() {
    let server = Postgres::shared().await;
    let mut rig = Rig::on(server).await;
    rig.options.heartbeat_interval = Duration::from_secs(3600);
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=1).await;
    take(&mut *stream, 1).await;
    rig.sql(server, &format!("alter publication {} drop table items", rig.namespace)).await;
    let by_hand = rig.store();
    let refused = by_hand.recover_slot().await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Conflict, "{}", refused.chain());
    assert!(refused.context.contains("stop every cdc-watcher"), "{}", refused.chain());
    drop(stream);
    store.close().await;
    by_hand.recover_slot().await.unwrap().expect("there is a gap");
}
