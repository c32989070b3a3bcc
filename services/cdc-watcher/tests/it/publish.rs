use std::time::Duration;

use tidings_domain::{
    Error,
    dead_letter::{DeadLetterSource, reason},
    message::Message,
    ports::{Clock as _, Position, Queue},
    status::MessageState,
    time::Timestamp,
    topic::TopicName,
    wire,
};
use tidings_memory::{Options, Part};
use tidings_runtime::health::PartState;
use tokio::time::Instant;

use crate::setup::{Setup, ids, message};

#[tokio::test(start_paused = true)]
async fn every_item_is_published_as_a_record_and_then_confirmed() {
    let mut setup = Setup::new();
    setup.insert_all(1..=10);
    setup.start();
    setup.insert_all(11..=20);
    setup.until_confirmed().await;
    let published = setup.take_published().await;
    assert_eq!(ids(&published), (1..=20).collect::<Vec<_>>());
    let decoded = wire::change::decode(&published[0], setup.memory.clock().now()).unwrap();
    assert_eq!(decoded.item.unwrap().message, message(1, "text 1"));
    assert_eq!((decoded.notification.round, decoded.notification.replay), (0, None));
    assert_eq!(setup.part(), PartState::Up);
    assert!(setup.letters().await.is_empty());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_watcher_publishes_at_once() {
    let mut setup = Setup::new();
    setup.start();
    tokio::time::sleep(Duration::from_secs(100)).await;
    let inserted = Instant::now();
    setup.insert_all([1]);
    setup.until("it is published", || setup.memory.depth(Queue::Mail) == 1).await;
    assert!(inserted.elapsed() <= Duration::from_millis(1), "{:?}", inserted.elapsed());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_published_in_batches_and_confirmed_in_few_steps() {
    let mut setup = Setup::new();
    setup.insert_all(1..=1000);
    setup.start();
    setup.until_confirmed().await;
    assert_eq!(*setup.bus.batches.lock().unwrap(), [256, 256, 256, 232]);
    assert!(setup.changes.confirmed.lock().unwrap().len() <= 4);
    assert_eq!(setup.take_published().await.len(), 1000);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_position_never_passes_what_is_not_published() {
    let mut setup = Setup::new();
    setup.settings.batch = 1;
    *setup.bus.held.lock().unwrap() = Some("text 2".to_owned());
    setup.insert_all(1..=3);
    setup.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(setup.memory.depth(Queue::Mail), 2, "what comes later is not held up");
    assert_eq!(*setup.changes.confirmed.lock().unwrap(), [Position { partition: 0, offset: 1 }]);
    setup.bus.permits.add_permits(1);
    setup.until_confirmed().await;
    assert_eq!(ids(&setup.take_published().await), [1, 3, 2]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn it_runs_only_so_far_ahead_of_what_is_held_up() {
    let mut setup = Setup::new();
    setup.settings.batch = 1;
    *setup.bus.held.lock().unwrap() = Some("text 1\"".to_owned());
    setup.insert_all(1..=1000);
    setup.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(setup.memory.depth(Queue::Mail), 15);
    setup.bus.permits.add_permits(1);
    setup.until_confirmed().await;
    assert_eq!(setup.take_published().await.len(), 1000);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_bus_loses_nothing_and_gives_nothing_up() {
    let mut setup = Setup::new();
    setup.start();
    setup.memory.set_away(Part::Bus, true);
    setup.insert_all(1..=50);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(setup.waits_for().contains("tidings-notifications"));
    assert_eq!(setup.memory.unconfirmed(), 50);
    let publishes = setup.bus.batches.lock().unwrap().len();
    assert!(publishes < 2000, "{publishes} publishes in an hour");
    setup.memory.set_away(Part::Bus, false);
    setup.until_confirmed().await;
    assert_eq!(ids(&setup.take_published().await), (1..=50).collect::<Vec<_>>());
    assert_eq!(setup.part(), PartState::Up);
    assert!(setup.letters().await.is_empty());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_binding_is_waited_for_and_named() {
    let mut setup = Setup::new();
    setup.memory.unbind();
    setup.insert_all([1]);
    setup.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(setup.waits_for().contains("not bound"), "{}", setup.waits_for());
    assert_eq!(setup.memory.unconfirmed(), 1);
    setup.memory.topology().declare(&[TopicName::messages()]).await.unwrap();
    setup.until_confirmed().await;
    assert_eq!(ids(&setup.take_published().await), [1]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_taken_is_published_again_as_the_same_record() {
    let mut setup = Setup::new();
    *setup.bus.lost_answers.lock().unwrap() = 1;
    setup.insert_all([1, 2]);
    setup.start();
    setup.until_confirmed().await;
    let published = setup.take_published().await;
    assert_eq!(ids(&published), [1, 2, 1], "only what is unknown is repeated");
    assert_eq!(published[0].body, published[2].body);
    assert_eq!(published[0].headers, published[2].headers);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn one_record_that_fails_now_and_then_is_published_in_the_end() {
    let mut setup = Setup::new();
    setup.bus.will_fail("text 2", (0..20).map(|_| Error::transient("nack")));
    setup.insert_all(1..=3);
    setup.start();
    setup.until_confirmed().await;
    assert_eq!(ids(&setup.take_published().await), [1, 3, 2]);
    assert!(setup.letters().await.is_empty());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_refuses_is_a_dead_letter_with_its_record_and_then_confirmed() {
    let mut setup = Setup::new();
    setup.bus.will_fail("text 2", [Error::rejected("a header that the bus cannot carry")]);
    setup.insert_all(1..=3);
    setup.start();
    setup.until_confirmed().await;
    assert_eq!(ids(&setup.take_published().await), [1, 3]);
    let letters = setup.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].source, &*letters[0].reason), (DeadLetterSource::Changes, reason::REJECTED));
    assert_eq!(letters[0].message_id, Some(message(2, "x").id.uuid()));
    assert!(String::from_utf8_lossy(&letters[0].body).contains("text 2"));
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_a_dead_letter_with_its_bytes_and_then_confirmed() {
    let mut setup = Setup::new();
    *setup.changes.unreadable.lock().unwrap() = Some("text 2".to_owned());
    setup.insert_all(1..=3);
    setup.start();
    setup.until_confirmed().await;
    assert_eq!(ids(&setup.take_published().await), [1, 3]);
    let letters = setup.letters().await;
    assert_eq!((&*letters[0].reason, &*letters[0].detail), (reason::UNDECODABLE, "no topic"));
    let id = message(2, "x").id;
    assert_eq!(letters[0].body, format!("row {id}"));
    // Who asks for the message is told, and retention takes both.
    assert_eq!(letters[0].message_id, Some(id.uuid()));
    let timelines = setup.memory.deliveries().timelines(&[id]).await.unwrap();
    assert_eq!(timelines[0].state(), Some(MessageState::DeadLetter));
    let expired = setup.memory.items().expire(Timestamp::MAX, 10).await.unwrap();
    assert_eq!((expired.removed, expired.open), (1, 2), "those that are on their way stay");
    assert!(setup.letters().await.is_empty());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_confirmed_while_its_dead_letter_cannot_be_written() {
    let mut setup = Setup::new();
    setup.settings.batch = 1;
    *setup.changes.unreadable.lock().unwrap() = Some("text 1".to_owned());
    setup.start();
    setup.until("it is up", || setup.part() == PartState::Up).await;
    setup.insert_all([1]);
    setup.memory.set_away(Part::Store, true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(setup.memory.unconfirmed(), 1);
    setup.memory.set_away(Part::Store, false);
    setup.until_confirmed().await;
    assert_eq!(setup.letters().await.len(), 1);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_does_not_fit_is_left_out_of_its_record() {
    let mut setup = Setup::with(Options { delay_ms: 0, max_publish_bytes: 2000, ..Options::new(1) });
    setup.insert(message(1, &"x".repeat(3000)));
    setup.start();
    setup.until_confirmed().await;
    let published = setup.take_published().await;
    let decoded = wire::change::decode(&published[0], setup.memory.clock().now()).unwrap();
    assert_eq!(decoded.item, None);
    assert!(String::from_utf8_lossy(&published[0].body).contains("\"messageBytes\":3000"));
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn large_changes_are_held_to_a_bound_in_bytes() {
    let mut setup = Setup::new();
    let large = message(1, &"x".repeat(250 * 1024));
    (1..=140).for_each(|number| setup.insert(Message { id: message(number, "x").id, ..large.clone() }));
    *setup.bus.held.lock().unwrap() = Some("xxx".to_owned());
    setup.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    setup.insert_all([141]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(*setup.bus.batches.lock().unwrap(), [140], "a second batch was begun beside 34 MiB");
    setup.bus.permits.add_permits(1);
    setup.until_confirmed().await;
    assert_eq!(setup.take_published().await.len(), 141);
    setup.stop().await;
}
