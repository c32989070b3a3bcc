//! Rows, positions and ids.

use std::collections::BTreeSet;

use tidings_domain::{ErrorKind, ports::DependencyState};
use tidings_servers::postgres::Postgres;

use super::rig::{Rig, nothing_comes, numbers, open, state, take, texts};

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_others_come_with_their_defaults() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.sql(server, "insert into items (topic, message) values ('messages', E'ein ä\\t🎉')").await;
    let change = take(&mut *stream, 1).await.remove(0).content.expect("it can be read");
    assert_eq!(change.item.message.text.as_str(), "ein ä\t🎉");
    assert_eq!(change.item.message.content_type, "text/plain; charset=utf-8");
    assert_eq!(change.item.message.id.uuid().get_version_num(), 4);
    assert!(change.item.message.subject.is_none() && change.item.message.attributes.is_empty());
    let stored_at = rig.sql(server, "select (extract(epoch from stored_at) * 1000)::bigint from items").await;
    assert_eq!(change.item.stored_at.as_millis().to_string(), stored_at);
    state(&store, "it is up", |state| *state == DependencyState::Up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_rows_of_one_copy_have_three_ids_and_a_replay_has_the_same() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    rig.sql(server, "copy items (topic, message) from stdin;\nmessages\t1\nmessages\t2\nmessages\t3\n\\.\n")
        .await;
    let ids = async || {
        let mut stream = open(&store).await;
        let captured = take(&mut *stream, 3).await;
        assert_eq!(texts(&captured), numbers(1..=3));
        let ids: Vec<_> = captured
            .into_iter()
            .map(|captured| captured.content.unwrap())
            .map(|change| (change.event_id, change.sequence_number))
            .collect();
        ids
    };
    let first = ids().await;
    assert_eq!(first, ids().await);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 3);
    let system_id = rig.sql(server, "select system_identifier from pg_control_system()").await;
    for (ordinal, (event_id, sequence_number)) in (1..).zip(&first) {
        assert!(event_id.starts_with(&format!("{system_id}:1:")), "{event_id}");
        assert!(
            event_id.ends_with(&format!("/{}", &sequence_number[sequence_number.find('/').unwrap() + 1..]))
        );
        assert!(sequence_number.ends_with(&format!(":{ordinal}")), "{sequence_number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_confirmed_does_not_come_again_though_its_stream_was_just_dropped() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    for number in 1..=4 {
        rig.insert(server, number..=number).await;
    }
    let store = rig.store();
    let mut stream = open(&store).await;
    let captured = take(&mut *stream, 4).await;
    stream.confirm(captured[1].position).await.unwrap();
    drop(stream);
    let mut stream = open(&store).await;
    let captured = take(&mut *stream, 2).await;
    assert_eq!(texts(&captured), numbers(3..=4));
    stream.confirm(captured[1].position).await.unwrap();
    drop(stream);
    // Another process, at once.
    let other = rig.store();
    let mut stream = open(&other).await;
    nothing_comes(&mut *stream).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slot_follows_and_its_log_can_go() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    rig.insert(server, 1..=3).await;
    let end = rig.sql(server, "select pg_current_wal_lsn()").await;
    let is_past = async || rig.slot(server, &format!("confirmed_flush_lsn >= '{end}'")).await == "t";
    let captured = take(&mut *stream, 3).await;
    nothing_comes(&mut *stream).await;
    assert!(!is_past().await, "nothing was confirmed");
    stream.confirm(captured[1].position).await.unwrap();
    nothing_comes(&mut *stream).await;
    assert!(!is_past().await, "the transaction is not wholly confirmed");
    stream.confirm(captured[2].position).await.unwrap();
    super::rig::until("the slot follows", is_past).await;
    let unknown = tidings_domain::ports::Position { partition: 0, offset: 99 };
    stream.confirm(unknown).await.unwrap();
    rig.insert(server, 4..=4).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["4"]);
    drop(stream);
    let mut stream = open(&store).await;
    assert_eq!(texts(&take(&mut *stream, 1).await), ["4"], "what was not handed out is not confirmed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_has_no_stream() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let store = rig.store();
    let mut stream = open(&store).await;
    store.close().await;
    assert_eq!(super::rig::error(&mut *stream).await.kind, ErrorKind::Unavailable);
    assert_eq!(super::rig::refusal(&store).await.kind, ErrorKind::Unavailable);
    super::rig::until("nobody reads the slot", async || rig.slot(server, "active").await == "f").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_provisioning_it_says_so() {
    let server = Postgres::shared().await;
    let rig = Rig::bare(server).await;
    let store = rig.store();
    let error = super::rig::refusal(&store).await;
    assert_eq!(error.kind, ErrorKind::Misconfigured, "{}", error.chain());
    assert!(error.context.contains("tidings provision"), "{}", error.chain());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_confirmed_everything_and_ended_in_order_gets_nothing_twice() {
    let server = Postgres::shared().await;
    let rig = Rig::on(server).await;
    let mut next = 1;
    for _ in 0..5 {
        rig.insert(server, next..=next + 6).await;
        let store = rig.store();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let last = runtime
            .spawn(async move {
                let mut stream = open(&store).await;
                let mut last = next - 1;
                while last < next + 6 {
                    let captured = take(&mut *stream, 1).await;
                    last += 1;
                    assert_eq!(texts(&captured), [last.to_string()]);
                    stream.confirm(captured[0].position).await.unwrap();
                }
                drop(stream);
                store.close().await;
                last
            })
            .await
            .unwrap();
        // At once: nothing goes on in the background.
        runtime.shutdown_background();
        next = last + 1;
    }
    let store = rig.store();
    let mut stream = open(&store).await;
    nothing_comes(&mut *stream).await;
}
