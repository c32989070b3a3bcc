use std::time::Duration;

use tidings_domain::{Error, dead_letter::DeadLetterSelection, ports::Clock as _};
use tidings_memory::Part;

use crate::setup::{Setup, ids};

async fn mark_all(setup: &Setup) {
    let all = DeadLetterSelection::default();
    let marked = setup.memory.dead_letters().mark(&all, setup.memory.clock().now()).await.unwrap();
    assert_eq!(marked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_redriven_record_is_published_and_its_letter_is_gone() {
    let mut setup = Setup::new();
    setup.bus.will_fail("text 1", [Error::rejected("once"), Error::rejected("twice")]);
    setup.insert_all([1]);
    setup.start();
    setup.until_confirmed().await;
    mark_all(&setup).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let letters = setup.letters().await;
    assert_eq!((letters.len(), letters[0].attempts, letters[0].marked_at), (1, 2, None));
    assert!(letters[0].detail.contains("twice"));

    mark_all(&setup).await;
    setup.memory.set_away(Part::Bus, true);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(setup.letters().await[0].marked_at.is_some(), "an outage took the mark");
    setup.memory.set_away(Part::Bus, false);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(setup.letters().await.is_empty());
    assert_eq!(ids(&setup.take_published().await), [1]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_record_is_not_published() {
    let mut setup = Setup::new();
    *setup.changes.unreadable.lock().unwrap() = Some("text 1".to_owned());
    setup.insert_all([1]);
    setup.start();
    setup.until_confirmed().await;
    mark_all(&setup).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let letters = setup.letters().await;
    assert_eq!((letters.len(), letters[0].attempts, letters[0].marked_at), (1, 2, None));
    assert!(letters[0].detail.starts_with("the item's row cannot be read"), "{}", letters[0].detail);
    assert!(letters[0].message_id.is_some(), "it stays a letter of its message");
    assert!(setup.take_published().await.is_empty());
    setup.stop().await;
}
