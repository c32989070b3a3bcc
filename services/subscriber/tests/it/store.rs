use std::time::Duration;

use tidings_domain::{
    Error,
    dead_letter::{DeadLetterSource, reason},
    ports::Queue,
    topic::TopicName,
    wire::Envelope,
};
use tidings_memory::Part;
use tidings_runtime::health::PartState;

use crate::{
    faults::{Fault, REFUSED},
    setup::{Setup, message, messages},
};

#[tokio::test(start_paused = true)]
async fn every_message_is_stored_once_however_often_it_is_published() {
    let mut setup = Setup::new();
    setup.start();
    let mut sent: Vec<_> = messages(300, "text").into();
    setup.publish(&sent).await;
    setup.publish(&sent[..50]).await;
    setup.until_empty(Queue::Items).await;
    for message in &mut sent {
        let item = setup.item(message.id).await.expect("it is stored");
        assert_eq!(item.message, *message);
    }
    assert!(setup.letters().await.is_empty());
    assert!(setup.health.report().ready);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_stored_in_batches() {
    let mut setup = Setup::new();
    let sent: Vec<_> = messages(512, "text").into();
    setup.publish(&sent).await;
    setup.start();
    setup.until_empty(Queue::Items).await;
    assert_eq!(*setup.items.inserts.lock().unwrap(), [128; 4]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_a_dead_letter_at_once_and_holds_up_no_other() {
    let mut setup = Setup::new();
    let topic = Some(TopicName::messages());
    let without_id = Envelope { body: "text".into(), published_to: topic.clone(), ..Envelope::default() };
    let not_text = Envelope {
        body: vec![0xff].into(),
        native_id: Some("abc".to_owned()),
        published_to: topic,
        ..Envelope::default()
    };
    setup.memory.publish_foreign(Queue::Items, without_id);
    setup.memory.publish_foreign(Queue::Items, not_text);
    setup.publish(&[message(1, "good")]).await;
    setup.start();
    setup.until_empty(Queue::Items).await;
    assert!(setup.item(message(1, "good").id).await.is_some());
    let mut letters = setup.letters().await;
    letters.sort_by(|a, b| a.reason.cmp(&b.reason));
    let reasons: Vec<_> = letters.iter().map(|letter| &*letter.reason).collect();
    assert_eq!(reasons, [reason::NO_ID, reason::UNDECODABLE]);
    assert!(letters.iter().all(|letter| letter.source == DeadLetterSource::Items));
    assert_eq!((letters[0].attempts, letters[0].message_id), (1, None));
    assert_eq!(&letters[1].body[..], [0xff]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_same_id_with_another_text_is_a_dead_letter_and_the_first_stays() {
    let mut setup = Setup::new();
    setup.start();
    setup.publish(&[message(1, "first"), message(1, "second"), message(1, "second")]).await;
    setup.until_empty(Queue::Items).await;
    assert_eq!(setup.item(message(1, "x").id).await.unwrap().message.text.as_str(), "first");
    let letters = setup.letters().await;
    assert_eq!(letters.len(), 1, "a repetition is the same letter");
    assert_eq!(letters[0].reason, reason::CONFLICT);
    assert_eq!(letters[0].message_id, Some(message(1, "x").id.uuid()));
    assert_eq!(letters[0].topic, Some(TopicName::messages()));
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_row_that_the_store_refuses_takes_no_other_with_it() {
    let mut setup = Setup::new();
    *setup.items.refused.lock().unwrap() = Some(Error::rejected("a check of the table"));
    setup.publish(&[message(1, "a"), message(2, REFUSED), message(3, "b")]).await;
    setup.start();
    setup.until_empty(Queue::Items).await;
    assert!(setup.item(message(1, "a").id).await.is_some());
    assert!(setup.item(message(3, "b").id).await.is_some());
    let letters = setup.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((&*letters[0].reason, letters[0].attempts), (reason::REJECTED, 1));
    assert!(letters[0].detail.contains("a check of the table"));
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_fails_each_time_is_given_up_alone() {
    let mut setup = Setup::new();
    *setup.items.refused.lock().unwrap() = Some(Error::transient("a deadlock"));
    setup.publish(&[message(1, "a"), message(2, REFUSED)]).await;
    setup.start();
    setup.until_empty(Queue::Items).await;
    let letters = setup.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!((&*letters[0].reason, letters[0].attempts), (reason::ATTEMPTS_EXHAUSTED, 5));
    assert!(setup.item(message(1, "a").id).await.is_some());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_asked_for_again_and_is_no_conflict() {
    let mut setup = Setup::new();
    setup.items.will(Fault::AnswerLost);
    setup.items.will(Fault::Fails(Error::unknown("no answer")));
    setup.publish(&[message(1, "a"), message(2, "b")]).await;
    setup.start();
    setup.until_empty(Queue::Items).await;
    assert_eq!(*setup.items.inserts.lock().unwrap(), [2, 2, 2]);
    assert!(setup.item(message(2, "b").id).await.is_some());
    assert!(setup.letters().await.is_empty());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn answers_that_never_come_are_an_outage_and_no_attempts() {
    let mut setup = Setup::new();
    (0..60).for_each(|_| setup.items.will(Fault::AnswerLost));
    setup.publish(&[message(1, "a")]).await;
    setup.start();
    setup.until("it waits", || matches!(setup.part("subscriber: items"), PartState::Waiting(_))).await;
    setup.until_empty(Queue::Items).await;
    assert!(setup.letters().await.is_empty());
    assert_eq!(setup.part("subscriber: items"), PartState::Up);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_hour_without_the_store_loses_nothing_and_gives_nothing_up() {
    let mut setup = Setup::new();
    setup.start();
    setup.memory.set_away(Part::Store, true);
    let sent: Vec<_> = messages(200, "text").into();
    setup.publish(&sent).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!setup.health.report().ready);
    assert_eq!(setup.memory.depth(Queue::Items), 200);
    let inserts = setup.items.inserts.lock().unwrap().len();
    assert!(inserts <= 4, "{inserts} inserts: messages were taken as probes");
    setup.memory.set_away(Part::Store, false);
    setup.until_empty(Queue::Items).await;
    for message in &sent {
        assert!(setup.item(message.id).await.is_some());
    }
    assert!(setup.letters().await.is_empty());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_restarts_is_gone_back_to() {
    let mut setup = Setup::new();
    setup.start();
    setup.publish(&[message(1, "a")]).await;
    setup.until_empty(Queue::Items).await;
    setup.memory.set_away(Part::Bus, true);
    setup.memory.restart();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(matches!(setup.part("subscriber: items"), PartState::Waiting(_)));
    setup.memory.set_away(Part::Bus, false);
    setup.publish(&[message(2, "b")]).await;
    setup.until_empty(Queue::Items).await;
    assert!(setup.item(message(2, "b").id).await.is_some());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crash_hands_everything_out_again() {
    let mut setup = Setup::new();
    (0..1000).for_each(|_| setup.items.will(Fault::Fails(Error::transient("slow"))));
    let sent: Vec<_> = messages(50, "text").into();
    setup.publish(&sent).await;
    setup.start();
    tokio::time::sleep(Duration::from_millis(300)).await;
    setup.tasks.abort_all();
    while setup.tasks.join_next().await.is_some() {}
    assert_eq!(setup.memory.depth(Queue::Items), 50);
    setup.items.faults.lock().unwrap().clear();
    setup.start();
    setup.until_empty(Queue::Items).await;
    for message in &sent {
        assert!(setup.item(message.id).await.is_some());
    }
    assert!(setup.letters().await.is_empty());
    setup.stop().await;
}
