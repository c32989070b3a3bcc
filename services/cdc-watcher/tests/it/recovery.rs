use std::time::Duration;

use tidings_domain::{Error, ports::Queue};
use tidings_memory::Part;
use tidings_runtime::health::PartState;

use crate::{
    faults::Fault,
    setup::{Setup, ids},
};

#[tokio::test(start_paused = true)]
async fn a_crash_before_the_confirm_publishes_once_more_and_loses_nothing() {
    let mut setup = Setup::new();
    setup.settings.confirm_linger_ms = 1000;
    setup.insert_all(1..=5);
    setup.start();
    setup.until("published", || setup.memory.depth(Queue::Mail) == 5).await;
    setup.crash().await;
    assert_eq!(setup.memory.unconfirmed(), 5);
    setup.start();
    setup.until_confirmed().await;
    let mut published = ids(&setup.take_published().await);
    published.sort_unstable();
    assert_eq!(published, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_confirm_that_fails_is_made_again() {
    let mut setup = Setup::new();
    setup.changes.confirms.lock().unwrap().push_back(Fault::Fails(Error::transient("busy")));
    setup.changes.confirms.lock().unwrap().push_back(Fault::AnswerLost);
    setup.insert_all([1]);
    setup.start();
    setup.until("confirmed", || !setup.changes.confirmed.lock().unwrap().is_empty()).await;
    assert_eq!(ids(&setup.take_published().await), [1], "the stream was opened anew for nothing");
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_taken_over_is_opened_again() {
    let mut setup = Setup::new();
    setup.changes.confirms.lock().unwrap().push_back(Fault::Fails(Error::lease_lost("confirm")));
    setup.insert_all([1]);
    setup.start();
    setup.until_confirmed().await;
    assert_eq!(ids(&setup.take_published().await), [1, 1]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_restarts_is_gone_back_to() {
    let mut setup = Setup::new();
    setup.start();
    setup.insert_all([1]);
    setup.until_confirmed().await;
    setup.memory.set_away(Part::Store, true);
    setup.memory.restart();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(setup.waits_for().contains("the table stream"), "{}", setup.waits_for());
    setup.memory.set_away(Part::Store, false);
    setup.insert_all([2]);
    setup.until_confirmed().await;
    assert_eq!(setup.part(), PartState::Up);
    assert_eq!(ids(&setup.take_published().await), [1, 2]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_the_publish_under_way_and_confirms_it() {
    let mut setup = Setup::new();
    *setup.bus.held.lock().unwrap() = Some("text 1".to_owned());
    setup.insert_all([1]);
    setup.start();
    tokio::time::sleep(Duration::from_secs(1)).await;
    setup.shutdown.request();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(setup.memory.unconfirmed(), 1);
    setup.bus.permits.add_permits(1);
    setup.stop().await;
    assert_eq!(setup.memory.unconfirmed(), 0);
    assert_eq!(ids(&setup.take_published().await), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_a_bus_that_is_away() {
    let mut setup = Setup::new();
    setup.memory.set_away(Part::Bus, true);
    setup.insert_all([1]);
    setup.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = tokio::time::Instant::now();
    setup.stop().await;
    assert!(asked.elapsed() < Duration::from_secs(1));
    assert_eq!(setup.memory.unconfirmed(), 1);
}
