use std::time::Duration;

use futures::FutureExt as _;
use tokio::task::JoinSet;

use crate::doubles::{Script, Setup, done, retry};

fn slow(seconds: u64) -> std::sync::Arc<Script> {
    Script::new(move |texts| {
        async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            vec![done(); texts.len()]
        }
        .boxed()
    })
}

#[tokio::test(start_paused = true)]
async fn leases_of_all_in_hand_are_renewed_while_they_are() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    (setup.settings.batch, setup.settings.concurrency) = (1, 1);
    let handler = slow(200);
    setup.bus.send(["runs", "waits"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(2).await;
    assert_eq!(handler.calls(), [["runs"], ["waits"]]);
    assert_eq!(setup.bus.count("expired"), 0);
    let extended = setup.bus.inner().extended;
    assert!((35..=45).contains(&extended), "{extended} renewals in 400 s at a third of 30 s");
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(setup.bus.inner().extended, extended, "renewed with nothing in hand");
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn leases_are_renewed_between_attempts() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.settings.backoff.first = Duration::from_secs(60);
    setup.settings.backoff.most = Duration::from_secs(60);
    let handler = Script::each(|_| retry());
    setup.bus.send(["bad"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    assert_eq!(handler.calls().len(), 5);
    assert_eq!(setup.bus.count("expired"), 0);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_over_is_neither_started_nor_settled() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    (setup.settings.batch, setup.settings.concurrency) = (1, 1);
    let handler = slow(100);
    setup.bus.send(["runs", "waits"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(1)).await;
    setup.bus.take_over();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(handler.calls(), [["runs"]]);
    assert_eq!(setup.bus.log(), ["open"]);
    setup.bus.send(["next"]);
    setup.bus.until_done(1).await;
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_stale_settlement_is_no_fault() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = slow(1);
    setup.bus.send(["a"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_millis(500)).await;
    setup.bus.take_over();
    setup.bus.send(["b"]);
    setup.bus.until_done(1).await;
    assert_eq!(setup.bus.log(), ["open", "stale", "done b"]);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn where_leases_last_as_long_as_the_connection_none_is_renewed() {
    let (setup, mut tasks) = (Setup::with_lease(None), JoinSet::new());
    let handler = slow(500);
    setup.bus.send(["a"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    assert_eq!(setup.bus.inner().extended, 0);
    setup.stop(&mut tasks).await;
}

/// With as much in hand as may be nothing is received, so that no answer tells of the end of a connection.
#[tokio::test(start_paused = true)]
async fn what_waits_when_its_connection_ends_is_not_handled_twice() {
    let (mut setup, mut tasks) = (Setup::with_lease(None), JoinSet::new());
    (setup.settings.batch, setup.settings.concurrency, setup.settings.prefetch) = (1, 1, 5);
    let handler = slow(10);
    setup.bus.send(["runs", "b", "c", "d", "e"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((handler.calls().len(), setup.bus.ready()), (1, 0));
    setup.bus.disconnect();
    setup.bus.until_done(5).await;
    // Only what was under way is handled a second time.
    for (text, calls) in [("runs", 2), ("b", 1), ("c", 1), ("d", 1), ("e", 1)] {
        assert_eq!(handler.calls_with(text), calls, "{text}: {:?}", handler.calls());
    }
    assert_eq!(setup.bus.count("open"), 2);
    setup.stop(&mut tasks).await;
}
