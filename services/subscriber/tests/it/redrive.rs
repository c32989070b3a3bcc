use tidings_domain::{
    Error,
    dead_letter::{DeadLetterSelection, reason},
    ports::{Clock as _, Queue},
    topic::TopicName,
    wire::{self, Envelope},
};

use crate::{
    faults::REFUSED,
    setup::{Setup, message},
};

async fn mark_all(setup: &Setup) {
    let all = DeadLetterSelection::default();
    let marked = setup.memory.dead_letters().mark(&all, setup.memory.clock().now()).await.unwrap();
    assert_eq!(marked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_redriven_message_is_stored_and_its_letter_is_gone() {
    let mut setup = Setup::new();
    *setup.items.refused.lock().unwrap() = Some(Error::rejected("a check"));
    let sent = message(7, REFUSED);
    setup.publish(std::slice::from_ref(&sent)).await;
    setup.start();
    setup.until_empty(Queue::Items).await;

    mark_all(&setup).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let letters = setup.letters().await;
    assert_eq!((letters.len(), letters[0].attempts, letters[0].marked_at), (1, 2, None));

    *setup.items.refused.lock().unwrap() = None;
    mark_all(&setup).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(setup.letters().await.is_empty());
    assert_eq!(setup.item(sent.id).await.unwrap().message, sent);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_message_keeps_its_id_through_a_redrive() {
    let mut setup = Setup::new();
    *setup.items.refused.lock().unwrap() = Some(Error::rejected("a check"));
    let foreign = Envelope {
        body: REFUSED.into(),
        native_id: Some("abc".to_owned()),
        published_to: Some(TopicName::messages()),
        ..Envelope::default()
    };
    let id = wire::message::decode(&foreign, setup.memory.clock().now()).unwrap().id;
    setup.memory.publish_foreign(Queue::Items, foreign);
    setup.start();
    setup.until_empty(Queue::Items).await;
    *setup.items.refused.lock().unwrap() = None;
    mark_all(&setup).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(setup.item(id).await.is_some());
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_safety_net_is_drained_into_dead_letters() {
    let mut setup = Setup::new();
    let sent = message(7, "text");
    setup.memory.publish_foreign(Queue::ItemsDead, wire::message::encode(&sent));
    setup.start();
    setup.until_empty(Queue::ItemsDead).await;
    let letters = setup.letters().await;
    assert_eq!(letters[0].reason, reason::RETURNED_TOO_OFTEN);
    assert_eq!(letters[0].message_id, Some(sent.id.uuid()));

    mark_all(&setup).await;
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    assert!(setup.item(sent.id).await.is_some());
    assert!(setup.letters().await.is_empty());
    setup.stop().await;
}
