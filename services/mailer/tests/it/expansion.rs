use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tidings_domain::{delivery::DeliveryState, ports::Queue, topic::TopicName, wire::Envelope};
use tokio::time::Instant;

use crate::world::World;

#[tokio::test(start_paused = true)]
async fn each_confirmed_recipient_whose_filter_matches_gets_one_mail_at_once() {
    let world = World::new();
    let _mailer = world.start();
    world.subscribe("ann@example.org").await;
    world.subscribe_with("bob@example.org", json!({"customer": ["b"]}), true).await;
    world.subscribe_with("cid@example.org", json!({"customer": ["c"]}), true).await;
    world.subscribe_with("dan@example.org", json!({}), false).await;
    world.mails(1).await;
    let began = Instant::now();
    let id = world.post("hello\n", json!({"customer": "b"})).await;
    world.mails(3).await;
    // No wait for a poll: a few calls of at most 6 ms each.
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    world.all_in(id.uuid(), DeliveryState::Sent).await;
    let mut to = world.office.recipients();
    assert_eq!(to.remove(0), "dan@example.org", "the confirmation");
    to.sort_unstable();
    assert_eq!(to, ["ann@example.org", "bob@example.org"]);
    assert_eq!(world.memory.depth(Queue::Mail), 0);
    let timeline = world.memory.deliveries().timelines(&[id]).await.unwrap().remove(0);
    assert!(timeline.expanded && timeline.last_mail_at.is_some());
}

#[tokio::test(start_paused = true)]
async fn many_pages_delivered_again_and_again_are_one_mail_each() {
    let mut world = World::new();
    world.settings.page_size = 2;
    for number in 0..7 {
        world.subscribe(&format!("a{number}@example.org")).await;
    }
    let _mailer = world.start();
    let change = world.change("x", json!({}));
    world.store(&change).await;
    for _ in 0..3 {
        world.notify(&change, usize::MAX);
    }
    let rows = world.all_in(change.item.message.id.uuid(), DeliveryState::Sent).await;
    world.until("the queue is empty", || async { world.memory.depth(Queue::Mail) == 0 }).await;
    world.notify(&change, usize::MAX);
    world.until("the queue is empty", || async { world.memory.depth(Queue::Mail) == 0 }).await;
    world.mails(7).await;
    let mut to = world.office.recipients();
    to.sort_unstable();
    to.dedup();
    assert_eq!((to.len(), world.office.recipients().len(), rows.len()), (7, 7, 7));
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_two_pages_loses_nobody() {
    for stop_after in [1_u64, 5, 9, 14, 20, 27, 35, 44] {
        let mut world = World::new();
        world.settings.page_size = 2;
        for number in 0..9 {
            world.subscribe(&format!("a{number}@example.org")).await;
        }
        let id = world.post("x", json!({})).await;
        let mailer = world.start();
        tokio::time::sleep(Duration::from_millis(stop_after)).await;
        mailer.crash().await;
        let _mailer = world.start();
        world
            .until("every recipient has a row", || async { world.deliveries(id.uuid()).await.len() == 9 })
            .await;
        let rows = world.all_in(id.uuid(), DeliveryState::Sent).await;
        let unknowns: u32 = rows.iter().map(|row| row.unknowns).sum();
        let doubled = world.office.recipients().len() - 9;
        assert!(
            doubled <= unknowns as usize,
            "crash after {stop_after} ms: {doubled} doubled, {unknowns} unknown"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn two_mailers_never_mail_one_recipient_twice() {
    let mut world = World::new();
    world.settings.page_size = 3;
    world.settings.concurrency = 4;
    for number in 0..8 {
        world.subscribe(&format!("a{number}@example.org")).await;
    }
    let _mailers = [world.start(), world.start()];
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(world.post(&format!("message {number}"), json!({})).await);
    }
    for id in ids {
        assert_eq!(world.all_in(id.uuid(), DeliveryState::Sent).await.len(), 8);
    }
    assert_eq!(world.office.recipients().len(), 160);
    assert!(
        world.office.most_under_way() <= 8,
        "{} under way with two times 4 allowed",
        world.office.most_under_way()
    );
}

#[tokio::test(start_paused = true)]
async fn a_message_left_out_of_its_record_is_read_from_the_table() {
    let world = World::new();
    let _mailer = world.start();
    world.subscribe("ann@example.org").await;
    let change = world.change(&"long ".repeat(100), json!({}));
    world.store(&change).await;
    world.notify(&change, 10);
    world.mails(1).await;
    assert!(world.office.taken()[0].1.contains("long long"));
    // No such item: a dead letter that says so.
    let missing = world.change("x", json!({}));
    world.notify(&missing, 10);
    world.until("a dead letter", || async { !world.letters().await.is_empty() }).await;
    let letter = world.letters().await.remove(0);
    assert_eq!(letter.reason, "item_missing");
    assert_eq!(letter.message_id, Some(missing.item.message.id.uuid()));
    assert_eq!(letter.topic, Some(TopicName::messages()));
    // Once the item is there, a redrive mails it.
    world.store(&missing).await;
    let all = tidings_domain::dead_letter::DeadLetterSelection::default();
    world.memory.dead_letters().mark(&all, tidings_memory::epoch()).await.unwrap();
    world.mails(2).await;
    world.until("the letter is gone", || async { world.letters().await.is_empty() }).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_record_is_a_dead_letter_and_its_neighbours_are_mailed() {
    let world = World::new();
    world.subscribe("ann@example.org").await;
    let garbage = Envelope { body: Bytes::from_static(b"{\"eventName\":\"MODIFY\"}"), ..Envelope::default() };
    world.memory.publish_foreign(Queue::Mail, garbage);
    let id = world.post("x", json!({})).await;
    let _mailer = world.start();
    world.all_in(id.uuid(), DeliveryState::Sent).await;
    world.until("a dead letter", || async { !world.letters().await.is_empty() }).await;
    let letter = world.letters().await.remove(0);
    assert_eq!(letter.reason, "undecodable");
    assert!(letter.detail.contains("INSERT"), "{}", letter.detail);
    world.until("the queue is empty", || async { world.memory.depth(Queue::Mail) == 0 }).await;
}
