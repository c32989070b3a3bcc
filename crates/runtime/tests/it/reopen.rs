use std::time::Duration;

use tidings_domain::Error;
use tidings_runtime::health::PartState;
use tokio::{task::JoinSet, time::Instant};

use crate::doubles::{Script, Setup, done};

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_away_is_waited_for_and_named() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let errors = (0..400).map(|_| Error::unavailable("the broker refuses"));
    setup.bus.inner().open_errors.extend(errors);
    setup.bus.send(["a"]);
    let handler = Script::each(|_| done());
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(1000)).await;
    let PartState::Waiting(reason) = setup.part() else { panic!("{:?}", setup.part()) };
    assert!(reason.contains("tidings-items") && reason.contains("the broker refuses"), "{reason}");
    assert!(setup.bus.inner().open_errors.len() > 200, "it hammered the broker");
    setup.bus.inner().open_errors.clear();
    setup.bus.until_done(1).await;
    assert_eq!(setup.part(), PartState::Up);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_ends_is_opened_again() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.bus.inner().receive_errors.push_back(Error::unavailable("the connection ended"));
    setup.bus.send(["a"]);
    let handler = Script::each(|_| done());
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    assert_eq!(setup.bus.count("open"), 2);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_empty_for_good_does_not_end_in_silence() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.bus.inner().empty_answers = 3;
    setup.bus.send(["a"]);
    let handler = Script::each(|_| done());
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    assert_eq!(setup.bus.count("open"), 2);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn settlements_that_fail_reopen_the_queue_and_the_message_comes_again() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.bus.inner().settle_errors.push_back(Error::unavailable("the connection ended"));
    setup.bus.send(["a"]);
    let handler = Script::each(|_| done());
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    assert_eq!(handler.calls_with("a"), 2);
    assert_eq!(setup.bus.log(), ["open", "dropped a", "open", "done a"]);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_queue_ends_with_the_wish_to_stop() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.bus.inner().open_errors.extend((0..9).map(|_| Error::unavailable("the broker")));
    setup.start(&Script::each(|_| done()), &mut tasks);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    setup.stop(&mut tasks).await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
}
