use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use tokio::{task::JoinSet, time::Instant};

use crate::doubles::{Script, Setup, done, retry};

#[tokio::test(start_paused = true)]
async fn a_stop_finishes_what_runs_and_gives_back_the_rest() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    (setup.settings.batch, setup.settings.concurrency) = (1, 1);
    let handler = Script::new(|_| {
        async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            vec![done()]
        }
        .boxed()
    });
    setup.bus.send(["runs", "waits", "waits too"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    setup.stop(&mut tasks).await;
    assert_eq!(asked.elapsed(), Duration::from_secs(2));
    assert_eq!(setup.bus.log(), ["open", "stop", "release waits", "release waits too", "done runs"]);
    assert_eq!(handler.calls(), [["runs"]]);
    assert!(setup.letters.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_counts_no_attempt_and_makes_no_dead_letter() {
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    setup.settings.backoff.first = Duration::from_secs(60);
    setup.settings.backoff.most = Duration::from_secs(60);
    let handler = Script::each(|text| if text == "bad" { retry() } else { done() });
    setup.bus.send(["bad", "good"]);
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    setup.stop(&mut tasks).await;
    assert_eq!(setup.bus.log(), ["open", "done good", "stop", "release bad"]);
    assert!(setup.letters.all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_dropped_within_the_grace_period_and_comes_again() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::new(|_| std::future::pending().boxed());
    setup.bus.send(["hangs"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    setup.stop(&mut tasks).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(setup.bus.log(), ["open", "stop", "dropped hangs"]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_loop_leaves_nothing_running() {
    struct OnDrop(Arc<AtomicBool>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let dropped = Arc::new(AtomicBool::new(false));
    let handler = Script::new({
        let dropped = Arc::clone(&dropped);
        move |_| {
            let guard = OnDrop(Arc::clone(&dropped));
            async move {
                let _guard = guard;
                std::future::pending().await
            }
            .boxed()
        }
    });
    setup.bus.send(["a"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(1)).await;
    tasks.abort_all();
    assert!(tasks.join_next().await.unwrap().unwrap_err().is_cancelled());
    assert!(dropped.load(Ordering::SeqCst));
    assert_eq!(setup.bus.log(), ["open", "dropped a"]);
}

#[tokio::test(start_paused = true)]
async fn what_fails_while_stopping_is_given_back_and_not_left_to_its_lease() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    let handler = Script::new(|texts| {
        async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            vec![retry(); texts.len()]
        }
        .boxed()
    });
    setup.bus.send(["a", "b"]);
    setup.start(&handler, &mut tasks);
    tokio::time::sleep(Duration::from_secs(1)).await;
    setup.stop(&mut tasks).await;
    assert_eq!(setup.bus.log(), ["open", "stop", "release a", "release b"]);
    assert!(setup.letters.all().is_empty());
}
