//! `Changes` and `ChangeStream`.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use tidings_domain::{
    ErrorKind,
    id::MessageId,
    item::Item,
    ports::{Captured, ChangeStream, Items, NewItem},
    text::{MAX_MESSAGE_BYTES, Text},
};
use tokio::task::JoinSet;

use crate::{
    Disturbance, Fixture, Need,
    runner::suite,
    samples::{item, message_id, oversize_item},
};

suite!(Changes {
    an_inserted_item_comes_as_it_is,
    the_largest_item_comes_whole,
    changes_come_in_the_order_of_commits,
    what_was_there_or_refused_never_comes,
    next_waits_and_ends_empty,
    next_takes_no_more_than_it_is_asked_for,
    next_loses_nothing_when_it_is_dropped,
    a_stream_opened_again_begins_after_the_last_confirmed,
    confirming_again_changes_nothing,
    the_backlog_counts_what_is_not_confirmed,
    a_second_reader_waits_for_the_first,
    concurrent_inserts_all_come,
    a_rolled_back_insert_never_comes [Need::OpenInsert],
    transactions_that_commit_out_of_order_are_not_skipped [Need::OverlappingInserts],
    a_gap_is_typed_and_never_skipped [Need::Disturb(Disturbance::Gap)],
    a_restart_replays_from_the_last_confirmed [Need::Disturb(Disturbance::Restart)],
});

const SOON: Duration = Duration::from_secs(10);
const QUIET: Duration = Duration::from_millis(300);

fn id_of(captured: &Captured) -> MessageId {
    captured.content.as_ref().expect("an item that we inserted can be read").item.message.id
}

async fn insert(items: &dyn Items, numbers: &[u128]) {
    for number in numbers {
        items.insert(&[item(*number, 0)]).await.expect("insert");
    }
}

/// Reads until `count` have come.
async fn next(stream: &mut dyn ChangeStream, count: usize) -> Vec<Captured> {
    let mut all = Vec::new();
    while all.len() < count {
        let captured = stream.next(count - all.len(), SOON).await.expect("next");
        assert!(!captured.is_empty(), "{} of {count} changes came within {SOON:?}", all.len());
        all.extend(captured);
    }
    assert_eq!(all.len(), count, "next gave more than it was asked for");
    all
}

async fn nothing_comes(stream: &mut dyn ChangeStream) {
    let captured = stream.next(10, QUIET).await.expect("next");
    assert!(captured.is_empty(), "nothing was to come, but {captured:?}");
}

fn ids(captured: &[Captured]) -> Vec<MessageId> {
    captured.iter().map(id_of).collect()
}

async fn an_inserted_item_comes_as_it_is(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let mut stream = ports.changes().open().await.expect("open");
    let NewItem { message, stored_at } = item(1, 7);
    let new = Item { message, stored_at };
    ports.items().insert(&[item(1, 7)]).await.expect("insert");
    let captured = next(&mut *stream, 1).await.remove(0);
    let change = captured.content.expect("it can be read");
    assert_eq!(change.item, new);
    assert!(!change.event_id.is_empty() && !change.sequence_number.is_empty());
    assert!(change.size_bytes as usize >= new.message.text.as_str().len());
}

async fn the_largest_item_comes_whole(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let mut stream = ports.changes().open().await.expect("open");
    let mut new = item(1, 0);
    new.message.subject = None;
    new.message.attributes = Default::default();
    new.message.text = Text::parse(&"🎉".repeat(MAX_MESSAGE_BYTES / 4)).expect("a text");
    ports.items().insert(std::slice::from_ref(&new)).await.expect("insert");
    let change = next(&mut *stream, 1).await.remove(0).content.expect("it can be read");
    assert!(change.item.message == new.message, "the message differs");
    assert!(change.size_bytes >= MAX_MESSAGE_BYTES as u64);
}

async fn changes_come_in_the_order_of_commits(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    // Against the order of their ids.
    insert(&*ports.items(), &[9, 3, 7, 1, 5]).await;
    let mut stream = ports.changes().open().await.expect("open");
    let captured = next(&mut *stream, 5).await;
    assert_eq!(ids(&captured), [9, 3, 7, 1, 5].map(message_id));
    let in_order = captured.windows(2).all(|pair| pair[0].position < pair[1].position);
    assert!(in_order, "positions count up in the order of handing out");
}

async fn what_was_there_or_refused_never_comes(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let items = ports.items();
    let mut stream = ports.changes().open().await.expect("open");
    insert(&*items, &[1, 1]).await;
    items.insert(&[item(2, 0), oversize_item(3)]).await.expect_err("row 3 is refused, and 2 with it");
    items.insert(&[item(1, 5), item(4, 0), item(4, 0)]).await.expect("insert");
    assert_eq!(ids(&next(&mut *stream, 2).await), [1, 4].map(message_id));
    nothing_comes(&mut *stream).await;
}

async fn next_waits_and_ends_empty(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let mut stream = ports.changes().open().await.expect("open");
    nothing_comes(&mut *stream).await;
    let items = ports.items();
    let (captured, ()) = futures::join!(next(&mut *stream, 1), insert(&*items, &[1]));
    assert_eq!(ids(&captured), [message_id(1)]);
}

async fn next_takes_no_more_than_it_is_asked_for(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    insert(&*ports.items(), &[1, 2, 3, 4, 5]).await;
    let mut stream = ports.changes().open().await.expect("open");
    let mut all = Vec::new();
    while all.len() < 5 {
        let captured = stream.next(2, SOON).await.expect("next");
        assert!((1..=2).contains(&captured.len()));
        all.extend(ids(&captured));
    }
    assert_eq!(all, [1, 2, 3, 4, 5].map(message_id));
}

async fn next_loses_nothing_when_it_is_dropped(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let items = ports.items();
    let mut stream = ports.changes().open().await.expect("open");
    let mut all = Vec::new();
    for round in 0..40_u64 {
        insert(&*items, &[u128::from(round)]).await;
        let patience = Duration::from_micros(round * 150);
        if let Ok(captured) = tokio::time::timeout(patience, stream.next(5, SOON)).await {
            all.extend(ids(&captured.expect("next")));
        }
        if let Some(captured) = stream.next(5, SOON).now_or_never() {
            all.extend(ids(&captured.expect("next")));
        }
    }
    let rest = 40 - all.len();
    all.extend(ids(&next(&mut *stream, rest).await));
    assert_eq!(all, (0..40).map(message_id).collect::<Vec<_>>());
}

async fn a_stream_opened_again_begins_after_the_last_confirmed(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    insert(&*ports.items(), &[1, 2, 3, 4]).await;
    let mut stream = ports.changes().open().await.expect("open");
    let captured = next(&mut *stream, 4).await;
    // Handed out is not confirmed.
    drop(stream);
    let mut stream = ports.changes().open().await.expect("open");
    let again = next(&mut *stream, 4).await;
    assert_eq!(ids(&again), ids(&captured));
    // Confirming the second covers the first.
    stream.confirm(again[1].position).await.expect("confirm");
    drop(stream);
    insert(&*ports.items(), &[5]).await;
    let mut stream = ports.changes().open().await.expect("open");
    assert_eq!(ids(&next(&mut *stream, 3).await), [3, 4, 5].map(message_id));
    nothing_comes(&mut *stream).await;
}

async fn confirming_again_changes_nothing(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    insert(&*ports.items(), &[1, 2, 3]).await;
    let mut stream = ports.changes().open().await.expect("open");
    let captured = next(&mut *stream, 3).await;
    stream.confirm(captured[1].position).await.expect("confirm");
    stream.confirm(captured[1].position).await.expect("confirm again");
    stream.confirm(captured[0].position).await.expect("confirm what is covered");
    nothing_comes(&mut *stream).await;
    drop(stream);
    let mut stream = ports.changes().open().await.expect("open");
    assert_eq!(ids(&next(&mut *stream, 1).await), [message_id(3)], "the position never moves back");
}

async fn the_backlog_counts_what_is_not_confirmed(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let changes = ports.changes();
    assert_eq!(changes.backlog().await.expect("backlog"), 0);
    insert(&*ports.items(), &[1, 2, 3]).await;
    assert!(changes.backlog().await.expect("backlog") >= 3);
    let mut stream = changes.open().await.expect("open");
    let captured = next(&mut *stream, 3).await;
    stream.confirm(captured[2].position).await.expect("confirm");
    assert_eq!(changes.backlog().await.expect("backlog"), 0);
}

async fn a_second_reader_waits_for_the_first(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    insert(&*ports.items(), &[1, 2]).await;
    let mut first = ports.changes().open().await.expect("open");
    let captured = next(&mut *first, 2).await;
    first.confirm(captured[0].position).await.expect("confirm");
    let other = fixture.open().await.changes();
    let waiting = other.open();
    tokio::pin!(waiting);
    assert!(tokio::time::timeout(QUIET, &mut waiting).await.is_err(), "two hold the stream at once");
    drop(first);
    let second = tokio::time::timeout(SOON, waiting).await.expect("it is free");
    let mut second = second.expect("open");
    assert_eq!(ids(&next(&mut *second, 1).await), [message_id(2)]);
}

async fn concurrent_inserts_all_come(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let mut stream = ports.changes().open().await.expect("open");
    let mut tasks = JoinSet::new();
    for inserter in 0..6_u128 {
        let items = fixture.open().await.items();
        tasks.spawn(async move {
            for number in 0..10 {
                insert(&*items, &[inserter * 100 + number]).await;
            }
        });
    }
    let mut all = Vec::new();
    while all.len() < 60 {
        let captured = next(&mut *stream, 1).await;
        stream.confirm(captured[0].position).await.expect("confirm");
        all.extend(ids(&captured));
    }
    tasks.join_all().await;
    nothing_comes(&mut *stream).await;
    // Of one inserter they come in its order.
    for inserter in 0..6 {
        let mine: Vec<_> = (0..10).map(|number| message_id(inserter * 100 + number)).collect();
        let came: Vec<_> = all.iter().filter(|id| mine.contains(id)).copied().collect();
        assert_eq!(came, mine);
    }
}

async fn a_rolled_back_insert_never_comes(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let mut stream = ports.changes().open().await.expect("open");
    let open = fixture.open_insert(item(1, 0)).await;
    nothing_comes(&mut *stream).await;
    open.roll_back().await;
    insert(&*ports.items(), &[2]).await;
    assert_eq!(ids(&next(&mut *stream, 1).await), [message_id(2)]);
    let open = fixture.open_insert(item(3, 0)).await;
    open.commit().await;
    assert_eq!(ids(&next(&mut *stream, 1).await), [message_id(3)]);
    nothing_comes(&mut *stream).await;
}

async fn transactions_that_commit_out_of_order_are_not_skipped(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let mut stream = ports.changes().open().await.expect("open");
    let early = fixture.open_insert(item(1, 0)).await;
    let late = fixture.open_insert(item(2, 0)).await;
    late.commit().await;
    let captured = next(&mut *stream, 1).await;
    assert_eq!(ids(&captured), [message_id(2)]);
    stream.confirm(captured[0].position).await.expect("confirm");
    drop(stream);
    early.commit().await;
    let mut stream = ports.changes().open().await.expect("open");
    assert_eq!(
        ids(&next(&mut *stream, 1).await),
        [message_id(1)],
        "it was numbered first and committed last"
    );
    nothing_comes(&mut *stream).await;
}

async fn a_gap_is_typed_and_never_skipped(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    insert(&*ports.items(), &[1, 2]).await;
    fixture.disturb(Disturbance::Gap).await;
    insert(&*ports.items(), &[3]).await;
    for _ in 0..2 {
        let opened =
            tokio::time::timeout(SOON, ports.changes().open()).await.expect("open does not wait for ever");
        let error = match opened {
            Err(error) => error,
            Ok(mut stream) => stream.next(10, SOON).await.expect_err("changes 1 and 2 cannot be read"),
        };
        assert_eq!(error.kind, ErrorKind::Gap, "{}", error.chain());
    }
}

async fn a_restart_replays_from_the_last_confirmed(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    insert(&*ports.items(), &[1, 2, 3]).await;
    let mut stream = ports.changes().open().await.expect("open");
    let captured = next(&mut *stream, 3).await;
    stream.confirm(captured[0].position).await.expect("confirm");
    drop((stream, ports));
    fixture.disturb(Disturbance::Restart).await;
    let ports = fixture.open().await;
    let mut stream = ports.changes().open().await.expect("open");
    assert_eq!(ids(&next(&mut *stream, 2).await), [2, 3].map(message_id));
    nothing_comes(&mut *stream).await;
}
