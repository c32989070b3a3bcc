//! A process that stood still (SIGSTOP, a suspended machine) while another took the stream over: it publishes nothing more of
//! what it had in hand. The stream itself says nothing yet in these tests.

use std::time::Duration;

use tidings_domain::{Error, ports::Queue};
use tidings_runtime::health::PartState;

use crate::setup::{Setup, ids};

#[tokio::test(start_paused = true)]
async fn a_batch_in_its_back_off_is_not_published_after_the_stream_was_taken_over() {
    let mut setup = Setup::new();
    setup.bus.will_fail("text 1", (0..5).map(|_| Error::unavailable("away")));
    setup.insert_all([1]);
    setup.start();
    setup.until("it was tried", || setup.bus.batches.lock().unwrap().len() == 4).await;
    assert_eq!(setup.changes.opened(), 1);
    setup.changes.is_taken_over();
    let says = |state: PartState| matches!(state, PartState::Waiting(why) if why.contains("stood still"));
    setup.until("it is seen", || says(setup.part())).await;
    assert_eq!(setup.changes.opened(), 1);
    assert_eq!(setup.bus.batches.lock().unwrap().len(), 4, "a retry went out of a stream that was lost");
    setup.until_confirmed().await;
    assert_eq!(setup.changes.opened(), 2);
    assert_eq!(ids(&setup.take_published().await), [1]);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_waits_in_the_bus_goes_no_further_and_none_is_begun() {
    let mut setup = Setup::new();
    setup.settings.batch = 1;
    *setup.bus.held.lock().unwrap() = Some("text 1".to_owned());
    setup.insert_all([1]);
    setup.start();
    setup.until("it is under way", || setup.bus.batches.lock().unwrap().len() == 1).await;
    setup.changes.is_taken_over();
    // What it waited for is there when it thaws, and so is another change.
    setup.bus.permits.add_permits(1);
    setup.insert_all([2]);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(setup.memory.depth(Queue::Mail), 0, "the zombie published");
    *setup.bus.held.lock().unwrap() = None;
    setup.until_confirmed().await;
    assert_eq!(setup.changes.opened(), 2);
    assert_eq!(ids(&setup.take_published().await), [1, 2], "each once, by the second stream");
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_stop_publishes_nothing_more_of_a_stream_that_was_taken_over() {
    let mut setup = Setup::new();
    *setup.bus.held.lock().unwrap() = Some("text 1".to_owned());
    setup.insert_all([1]);
    setup.start();
    setup.until("it is under way", || setup.bus.batches.lock().unwrap().len() == 1).await;
    setup.changes.is_taken_over();
    setup.shutdown.request();
    setup.bus.permits.add_permits(1);
    setup.stop().await;
    assert_eq!((setup.memory.depth(Queue::Mail), setup.memory.unconfirmed()), (0, 1));
}
