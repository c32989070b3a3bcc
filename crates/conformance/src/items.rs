//! `Items`.

use std::{sync::Arc, time::Duration};

use tidings_domain::{
    ErrorKind,
    dead_letter::{DeadLetter, DeadLetterSource, reason},
    item::Item,
    message::Message,
    notification::Cursor,
    ports::{Inserted, ItemQuery, Items, NewItem},
    status::MessageState,
    text::{MAX_MESSAGE_BYTES, Text},
    topic::TopicName,
};
use tokio::task::JoinSet;

use crate::{
    Disturbance, Fixture, Need, Ports,
    runner::suite,
    samples::{
        LEASE, after_s, answer, claim, consented, dead_letter, failed, item, key, message_id, oversize_item,
        page, plan, token, topic,
    },
};

suite!(Items {
    an_item_comes_back_as_it_was_inserted,
    the_largest_item_is_carried,
    an_item_is_inserted_once,
    another_body_under_an_id_is_a_conflict,
    duplicates_within_a_batch_are_compared,
    a_batch_is_answered_in_its_own_order,
    a_large_batch_goes_in_whole,
    of_concurrent_inserters_one_has_the_new,
    a_refused_row_does_no_harm,
    what_is_missing_is_none,
    a_list_goes_newest_first_in_pages,
    pages_are_stable_while_rows_come,
    a_list_is_bounded_by_topic_and_time,
    a_foreign_cursor_is_rejected,
    only_what_is_expanded_and_closed_expires,
    what_expires_takes_along_all_that_is_its_own,
    an_item_whose_change_is_a_dead_letter_is_closed,
    expiry_goes_in_steps,
    a_store_that_is_away_is_unavailable [Need::Disturb(Disturbance::Unavailable)],
    a_restart_keeps_items [Need::Disturb(Disturbance::Restart)],
});

async fn insert(items: &dyn Items, batch: &[NewItem]) -> Vec<Inserted> {
    let answers = items.insert(batch).await.expect("insert");
    assert_eq!(answers.len(), batch.len(), "one answer for each entry");
    answers
}

async fn get(items: &dyn Items, number: u128) -> Option<Item> {
    let mut found = items.get(&[message_id(number)]).await.expect("get");
    assert_eq!(found.len(), 1);
    found.remove(0)
}

async fn an_item_comes_back_as_it_was_inserted(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    let full = item(1, 5);
    let mut bare = item(2, 6);
    bare.message.subject = None;
    bare.message.attributes = Default::default();
    bare.message.trace = Default::default();
    insert(&*items, &[full.clone(), bare.clone()]).await;
    let other = fixture.open().await.items();
    for new in [full, bare] {
        let found = other.get(&[new.message.id]).await.expect("get").remove(0).expect("it is there");
        assert_eq!(found, Item { message: new.message, stored_at: new.stored_at });
    }
    items.ping().await.expect("ping");
}

async fn the_largest_item_is_carried(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    let mut new = item(1, 0);
    new.message.subject = None;
    new.message.attributes = Default::default();
    new.message.text = Text::parse(&"🎉".repeat(MAX_MESSAGE_BYTES / 4)).expect("a text");
    assert_eq!(insert(&*items, std::slice::from_ref(&new)).await, [Inserted::New]);
    let found = get(&*items, 1).await.expect("it is there");
    assert!(found.message.text == new.message.text, "the text differs");
}

async fn an_item_is_inserted_once(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    assert_eq!(insert(&*items, &[item(1, 0)]).await, [Inserted::New]);
    let mut again = item(1, 99);
    again.message.accepted_at = after_s(50);
    again.message.trace = Default::default();
    // Time and trace say nothing: it is the same message, and the first row stays.
    assert_eq!(insert(&*items, &[again]).await, [Inserted::AlreadyThere]);
    let row = get(&*items, 1).await.expect("it is there");
    assert_eq!((row.stored_at, row.message), (after_s(0), item(1, 0).message));
}

async fn another_body_under_an_id_is_a_conflict(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    insert(&*items, &[item(1, 0)]).await;
    let changes: [fn(&mut Message); 5] = [
        |message| message.text = Text::parse("other").expect("a text"),
        |message| message.subject = None,
        |message| message.topic = topic("orders"),
        |message| message.content_type = "application/json".to_owned(),
        |message| message.attributes = Default::default(),
    ];
    for (which, change) in changes.iter().enumerate() {
        let mut other = item(1, 0);
        change(&mut other.message);
        assert_eq!(insert(&*items, &[other]).await, [Inserted::Conflict], "change {which}");
    }
    assert_eq!(get(&*items, 1).await.expect("it is there").message, item(1, 0).message);
}

async fn duplicates_within_a_batch_are_compared(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    let mut other = item(1, 0);
    other.message.text = Text::parse("other").expect("a text");
    let answers = insert(&*items, &[item(2, 0), item(1, 0), other, item(1, 0), item(2, 0)]).await;
    let expected =
        [Inserted::New, Inserted::New, Inserted::Conflict, Inserted::AlreadyThere, Inserted::AlreadyThere];
    assert_eq!(answers, expected);
    assert_eq!(get(&*items, 1).await.expect("it is there").message, item(1, 0).message);
}

async fn a_batch_is_answered_in_its_own_order(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    insert(&*items, &[item(5, 0), item(2, 0)]).await;
    let order = [9, 5, 1, 7, 2, 3];
    let answers = insert(&*items, &order.map(|number| item(number, 1))).await;
    let expected = order.map(|n| if n == 5 || n == 2 { Inserted::AlreadyThere } else { Inserted::New });
    assert_eq!(answers, expected);
    assert_eq!(insert(&*items, &[]).await, []);
}

async fn a_large_batch_goes_in_whole(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    let numbers: Vec<u128> = (0..1500).rev().collect();
    let batch: Vec<NewItem> = numbers.iter().map(|number| item(*number, 0)).collect();
    assert!(insert(&*items, &batch).await.iter().all(|answer| *answer == Inserted::New));
    let ids: Vec<_> = numbers.iter().map(|number| message_id(*number)).collect();
    let found = items.get(&ids).await.expect("get");
    let found: Vec<_> = found.into_iter().flatten().map(|row| row.message.id).collect();
    assert_eq!(found, ids, "all of them, in the order in which they were asked for");
}

async fn of_concurrent_inserters_one_has_the_new(fixture: Arc<dyn Fixture>) {
    let mut tasks = JoinSet::new();
    for inserter in 0..8_u128 {
        let items = fixture.open().await.items();
        tasks.spawn(async move {
            // Each in an order of its own: a store that takes rows in the caller's order would lock itself.
            let mut batch: Vec<NewItem> =
                (0..20).map(|number| item((number + inserter * 3) % 20, 0)).collect();
            if inserter % 2 == 0 {
                batch.reverse();
            }
            let answers = insert(&*items, &batch).await;
            batch.into_iter().map(|new| new.message.id).zip(answers).collect::<Vec<_>>()
        });
    }
    let mut new: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    assert!(new.iter().all(|(_, answer)| *answer != Inserted::Conflict), "the same is no conflict");
    new.retain(|(_, answer)| *answer == Inserted::New);
    new.sort_by_key(|(id, _)| *id);
    let expected: Vec<_> = (0..20).map(|number| (message_id(number), Inserted::New)).collect();
    assert_eq!(new, expected, "each id is new to exactly one");
}

async fn a_refused_row_does_no_harm(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    insert(&*items, &[item(1, 0)]).await;
    let error =
        items.insert(&[item(2, 0), oversize_item(3), item(4, 0)]).await.expect_err("row 3 is too large");
    assert_eq!(error.kind, ErrorKind::Rejected, "{}", error.chain());
    // All or none: entry by entry the others go in.
    assert_eq!(
        items.get(&[message_id(2), message_id(3), message_id(4)]).await.expect("get"),
        [None, None, None]
    );
    assert_eq!(insert(&*items, &[item(2, 0)]).await, [Inserted::New]);
    assert!(items.insert(&[oversize_item(3)]).await.is_err());
    assert_eq!(insert(&*items, &[item(4, 0)]).await, [Inserted::New]);
}

async fn what_is_missing_is_none(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    insert(&*items, &[item(2, 0)]).await;
    let found = items.get(&[message_id(1), message_id(2), message_id(3), message_id(2)]).await.expect("get");
    let there: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(there, [false, true, false, true]);
    assert_eq!(items.get(&[]).await.expect("get"), []);
}

/// Reads all pages of `limit`, calling `between` after each.
async fn pages(
    items: &dyn Items,
    mut query: ItemQuery,
    limit: u32,
    between: impl AsyncFn(),
) -> Vec<Vec<Item>> {
    let mut pages = Vec::new();
    loop {
        query.page.limit = limit;
        let read = items.list(&query).await.expect("list");
        pages.push(read.data);
        let Some(cursor) = read.next_cursor else { return pages };
        query.page.cursor = Some(cursor);
        between().await;
    }
}

fn is_newest_first(rows: &[Item]) -> bool {
    rows.windows(2).all(|pair| pair[0].stored_at >= pair[1].stored_at)
}

async fn a_list_goes_newest_first_in_pages(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    // Three share each time, so that pages end within one.
    let batch: Vec<NewItem> =
        (0..10).map(|number| item(number, u64::try_from(number / 3).expect("small"))).collect();
    insert(&*items, &batch).await;
    let all = pages(&*items, ItemQuery::default(), 4, async || {}).await;
    assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 2]);
    let all = all.concat();
    assert!(is_newest_first(&all), "{all:?}");
    let mut ids: Vec<_> = all.iter().map(|row| row.message.id).collect();
    ids.sort();
    assert_eq!(ids, (0..10).map(message_id).collect::<Vec<_>>());
    // Exactly a page: no cursor to an empty one.
    assert_eq!(pages(&*items, ItemQuery::default(), 10, async || {}).await.len(), 1);
}

async fn pages_are_stable_while_rows_come(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    let batch: Vec<NewItem> = (0..10).map(|number| item(number, 100)).collect();
    insert(&*items, &batch).await;
    let next = std::sync::atomic::AtomicU64::new(20);
    let add = async || {
        let number = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        insert(&*items, &[item(u128::from(number), 100 + number)]).await;
    };
    let all = pages(&*items, ItemQuery::default(), 3, add).await.concat();
    let mut ids: Vec<_> = all.iter().map(|row| row.message.id).filter(|id| *id < message_id(20)).collect();
    ids.sort();
    assert_eq!(ids, (0..10).map(message_id).collect::<Vec<_>>(), "each of the first ten is there once");
}

async fn a_list_is_bounded_by_topic_and_time(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    let batch = (0..12).map(|number| {
        let mut new = item(number, u64::try_from(number).expect("small"));
        if number % 2 == 0 {
            new.message.topic = topic("orders");
        }
        new
    });
    insert(&*items, &batch.collect::<Vec<_>>()).await;
    let query = ItemQuery {
        topic: Some(topic("orders")),
        since: Some(after_s(4)),
        until: Some(after_s(10)),
        page: page(50, None),
    };
    let numbers = |rows: &[Item]| rows.iter().map(|row| row.message.id).collect::<Vec<_>>();
    let expected = [8, 6, 4].map(message_id);
    assert_eq!(numbers(&items.list(&query).await.expect("list").data), expected, "since is in, until is out");
    let paged = pages(&*items, query, 2, async || {}).await.concat();
    assert_eq!(numbers(&paged), expected);
    let none = ItemQuery { topic: Some(topic("nobody")), ..ItemQuery::default() };
    let none = items.list(&none).await.expect("list");
    assert!(none.data.is_empty() && none.next_cursor.is_none());
}

async fn a_foreign_cursor_is_rejected(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    let query =
        ItemQuery { page: page(2, Some("'; drop table items; --".to_owned())), ..ItemQuery::default() };
    assert_eq!(items.list(&query).await.expect_err("no list made it").kind, ErrorKind::Rejected);
}

/// Items 1 to 5 at 1 to 5 s: 1 is not notified, 2 not expanded, 3 has an open delivery, 4 is all sent, 5 has nobody.
async fn rows_of_every_kind(ports: &Ports) {
    let (items, deliveries) = (ports.items(), ports.deliveries());
    let readers = [1, 2];
    for reader in readers {
        consented(&*ports.subscriptions(), reader).await;
    }
    let new: Vec<NewItem> =
        (1..=5).map(|number| item(number, u64::try_from(number).expect("small"))).collect();
    insert(&*items, &new).await;
    let half = Cursor::After(key(2, 1).subscription);
    let plans = vec![
        plan(2, Cursor::Start, &[1], half),
        plan(3, Cursor::Start, &readers, Cursor::Finished),
        plan(4, Cursor::Start, &readers, Cursor::Finished),
        plan(5, Cursor::Start, &[], Cursor::Finished),
    ];
    deliveries.plan(plans).await.expect("plan");
    let claimed = deliveries.claim(100, &claim(1, 20)).await.expect("claim");
    assert_eq!(claimed.len(), 5);
    let sent = |key| (key, token(1), tidings_domain::delivery::Outcome::Sent { answer: answer(250, 21) });
    let outcomes = vec![
        sent(key(2, 1)),
        sent(key(3, 1)),
        (key(3, 2), token(1), tidings_domain::delivery::Outcome::Released { due_at: after_s(1000) }),
        sent(key(4, 1)),
        (key(4, 2), token(1), failed(key(4, 2), 550, 21)),
    ];
    let answers = deliveries.settle(outcomes, after_s(21)).await.expect("settle");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

async fn there(ports: &Ports) -> Vec<u128> {
    let mut numbers = Vec::new();
    for number in 1..=5 {
        if get(&*ports.items(), number).await.is_some() {
            numbers.push(number);
        }
    }
    numbers
}

async fn only_what_is_expanded_and_closed_expires(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    rows_of_every_kind(&ports).await;
    let expired = ports.items().expire(after_s(0), 100).await.expect("expire");
    assert_eq!((expired.removed, expired.standing_by), (0, false), "nothing is so old");
    let expired = ports.items().expire(after_s(5), 100).await.expect("expire");
    assert_eq!((expired.removed, expired.open, expired.more), (1, 3, false), "4 goes, 1 to 3 are open");
    assert_eq!(there(&ports).await, [1, 2, 3, 5], "5 is too young by its second");
    let expired = ports.items().expire(after_s(6), 100).await.expect("expire");
    assert_eq!((expired.removed, expired.open), (1, 3));
    assert_eq!(there(&ports).await, [1, 2, 3]);
}

async fn what_expires_takes_along_all_that_is_its_own(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    rows_of_every_kind(&ports).await;
    let of_4 = tidings_domain::dead_letter::DeadLetterSelection {
        message_id: Some(message_id(4).0),
        ..Default::default()
    };
    assert_eq!(ports.dead_letters().count(&of_4).await.expect("count"), 1);
    ports.items().expire(after_s(6), 100).await.expect("expire");
    assert_eq!(ports.dead_letters().count(&of_4).await.expect("count"), 0);
    let left = ports.deliveries().list(message_id(4).0, &page(10, None)).await.expect("list");
    assert!(left.data.is_empty(), "{left:?}");
    let timelines = ports.deliveries().timelines(&[message_id(4), message_id(3)]).await.expect("timelines");
    assert_eq!(timelines[0].state(), None, "nothing is known of 4 any more");
    assert!(timelines[1].deliveries.sent == 1 && timelines[1].deliveries.pending == 1, "3 is untouched");
    // It is gone for good: an id past retention is a new one.
    assert_eq!(insert(&*ports.items(), &[item(4, 9)]).await, [Inserted::New]);
}

async fn an_item_whose_change_is_a_dead_letter_is_closed(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    insert(&*ports.items(), &[item(1, 1), item(2, 1), item(3, 1)]).await;
    let letter = |number, source| dead_letter(number, source, reason::UNDECODABLE);
    let letters = vec![letter(1, DeadLetterSource::Changes), letter(2, DeadLetterSource::Items)];
    ports.dead_letters().put(letters).await.expect("put");
    let timelines = ports.deliveries().timelines(&[message_id(1)]).await.expect("timelines");
    assert_eq!(timelines[0].state(), Some(MessageState::DeadLetter));
    let of_1 = tidings_domain::dead_letter::DeadLetterSelection {
        message_id: Some(message_id(1).0),
        ..Default::default()
    };
    ports.dead_letters().mark(&of_1, after_s(5)).await.expect("mark");
    let expired = ports.items().expire(after_s(6), 100).await.expect("expire");
    assert_eq!((expired.removed, expired.open), (0, 3), "one is to be redriven, two are to be published");
    let letters = ports.dead_letters();
    let claimed = letters.claim(DeadLetterSource::Changes, 1, token(1), after_s(7), LEASE).await;
    let [claimed] = <[_; 1]>::try_from(claimed.expect("claim")).expect("one is marked");
    let again = DeadLetter { marked_at: None, ..claimed.letter };
    ports.dead_letters().settle(vec![(again.id, claimed.token, Some(again))]).await.expect("settle");
    let expired = ports.items().expire(after_s(8), 100).await.expect("expire");
    assert_eq!((expired.removed, expired.open), (1, 2));
    assert_eq!(ports.dead_letters().count(&of_1).await.expect("count"), 0);
    assert!(get(&*ports.items(), 1).await.is_none() && get(&*ports.items(), 2).await.is_some());
}

async fn expiry_goes_in_steps(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let numbers: Vec<u128> = (1..=7).collect();
    insert(&*ports.items(), &numbers.iter().map(|n| item(*n, 1)).collect::<Vec<_>>()).await;
    let plans = numbers.iter().map(|n| plan(*n, Cursor::Start, &[], Cursor::Finished)).collect();
    ports.deliveries().plan(plans).await.expect("plan");
    let mut steps = Vec::new();
    loop {
        let expired = ports.items().expire(after_s(60), 3).await.expect("expire");
        assert!(expired.removed <= 3, "a step removed {}", expired.removed);
        steps.push(expired.removed);
        if !expired.more {
            break;
        }
        assert!(steps.len() < 10, "it never ends: {steps:?}");
    }
    assert_eq!(steps.iter().sum::<u64>(), 7);
    assert!(ports.items().list(&ItemQuery::default()).await.expect("list").data.is_empty());
}

async fn a_store_that_is_away_is_unavailable(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    insert(&*items, &[item(1, 0)]).await;
    fixture.disturb(Disturbance::Unavailable).await;
    let calls =
        async { (items.insert(&[item(2, 0)]).await, items.get(&[message_id(1)]).await, items.ping().await) };
    let (inserted, got, pinged) =
        tokio::time::timeout(Duration::from_secs(60), calls).await.expect("no call hangs");
    let outage = |kind| matches!(kind, ErrorKind::Unavailable | ErrorKind::Unknown);
    assert!(outage(inserted.expect_err("it is away").kind));
    assert!(outage(got.expect_err("it is away").kind));
    assert!(outage(pinged.expect_err("it is away").kind));
    fixture.mend().await;
    assert!(get(&*items, 1).await.is_some());
    let answers = insert(&*items, &[item(2, 0)]).await;
    assert_ne!(answers, [Inserted::Conflict]);
}

async fn a_restart_keeps_items(fixture: Arc<dyn Fixture>) {
    let items = fixture.open().await.items();
    insert(&*items, &[item(1, 0), item(2, 1)]).await;
    drop(items);
    fixture.disturb(Disturbance::Restart).await;
    let items = fixture.open().await.items();
    assert_eq!(get(&*items, 2).await.map(|row| row.message), Some(item(2, 1).message));
    assert_eq!(insert(&*items, &[item(1, 0)]).await, [Inserted::AlreadyThere]);
    let listed = items.list(&ItemQuery { topic: Some(TopicName::messages()), ..ItemQuery::default() }).await;
    assert_eq!(listed.expect("list").data.len(), 2);
}
