use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tidings_domain::Error;
use tidings_runtime::health::PartState;
use tokio::{task::JoinSet, time::Instant};

use crate::doubles::{Script, Setup, away, done};

fn on_and_off(is_away: &Arc<AtomicBool>) -> Arc<Script> {
    let is_away = Arc::clone(is_away);
    Script::each(move |_| if is_away.load(Ordering::SeqCst) { away() } else { done() })
}

#[tokio::test(start_paused = true)]
async fn an_outage_uses_no_attempt_and_ends_by_itself() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let is_away = Arc::new(AtomicBool::new(true));
    let handler = on_and_off(&is_away);
    let errors = (0..500).map(|_| Error::unavailable("the store"));
    handler.probe_errors.lock().unwrap().extend(errors);
    setup.bus.send(["a", "b", "c"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(handler.calls().len(), 1, "a message was taken as a probe");
    assert_eq!(setup.part(), PartState::Waiting("unavailable: the store".to_owned()));
    let probes = handler.probes.lock().unwrap().len();
    assert!((300..=400).contains(&probes), "{probes} probes in an hour");
    assert_eq!(setup.bus.ready(), 3, "what was taken was not given back");

    is_away.store(false, Ordering::SeqCst);
    handler.probe_errors.lock().unwrap().clear();
    let back = Instant::now();
    setup.bus.until_done(3).await;
    assert!(back.elapsed() <= Duration::from_secs(10));
    assert_eq!(setup.part(), PartState::Up);
    assert!(setup.letters.all().is_empty());
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_started_is_given_back_first_and_after_the_consumer_was_stopped() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.settings.batch = 1;
    setup.settings.concurrency = 1;
    let handler = Script::each(|_| away());
    handler.probe_errors.lock().unwrap().extend((0..9).map(|_| Error::unavailable("the store")));
    setup.bus.send(["a", "b", "c"]);
    setup.start(&handler, &mut tasks);
    setup
        .bus
        .until("3 releases", |inner| inner.log.iter().filter(|line| line.starts_with("release")).count() == 3)
        .await;
    let mut releases = setup.bus.log().split_off(1);
    assert_eq!(releases.remove(0), "stop");
    assert_eq!(releases, ["release b", "release c", "release a"]);
    assert_eq!(handler.calls(), [["a"]]);
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_beside_an_outage_is_finished_and_settled() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.settings.batch = 1;
    let handler = Script::new(|texts| {
        async move {
            if texts[0] == "away" {
                return vec![away()];
            }
            tokio::time::sleep(Duration::from_secs(100)).await;
            vec![done()]
        }
        .boxed()
    });
    handler.probe_errors.lock().unwrap().extend((0..500).map(|_| Error::unavailable("the store")));
    setup.bus.send(["long", "away"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    assert!(setup.bus.log().contains(&"done long".to_owned()));
    assert_eq!(setup.bus.count("expired"), 0, "its lease was not renewed");
    setup.stop(&mut tasks).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_wrong_makes_no_busy_loop() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::each(|_| away());
    setup.bus.send(["a"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(600)).await;
    let calls = handler.calls().len();
    assert!((50..=80).contains(&calls), "{calls} calls in ten minutes");
    assert!(setup.letters.all().is_empty());
    setup.stop(&mut tasks).await;
}
