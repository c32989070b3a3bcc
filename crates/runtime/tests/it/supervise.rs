use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tidings_domain::{Error, ErrorKind, backoff::Backoff};
use tidings_runtime::{
    shutdown::Shutdown,
    supervise::{Supervisor, SupervisorSettings},
};
use tokio::{task::JoinSet, time::Instant};

use crate::doubles::FixedEntropy;

fn supervisor() -> Supervisor {
    Supervisor::new(Arc::new(FixedEntropy)).with(SupervisorSettings {
        backoff: Backoff { first: Duration::from_secs(1), most: Duration::from_secs(8) },
        deaths: 4,
        window: Duration::from_secs(100),
    })
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_panics_fails_or_ends_is_started_again() {
    let lives = Arc::new(AtomicU32::new(0));
    let (shutdown, mut tasks) = (Shutdown::default(), JoinSet::new());
    let began = Instant::now();
    let counted = Arc::clone(&lives);
    let running = supervisor().loop_("frail", move |shutdown| {
        let life = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            match life {
                0 => panic!("first life"),
                1 => return Err(Error::transient("second life")),
                2 => return Ok(()),
                _ => shutdown.requested().await,
            }
            Ok(())
        }
    });
    tasks.spawn(running.run(shutdown.clone()));
    while lives.load(Ordering::SeqCst) < 4 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(1 + 2 + 4));
    shutdown.request();
    tasks.join_next().await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_keeps_dying_ends_the_whole_with_its_reason() {
    let stopped = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopped);
    let running = supervisor()
        .loop_("doomed", |_| async { Err(Error::misconfigured("the disk is read-only")) })
        .loop_("healthy", move |shutdown| {
            let flag = Arc::clone(&flag);
            async move {
                shutdown.requested().await;
                flag.store(true, Ordering::SeqCst);
                Ok(())
            }
        });
    let outer = Shutdown::default();
    let error = running.run(outer.clone()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    let chain = error.chain();
    assert!(chain.contains("`doomed` died 4 times") && chain.contains("the disk is read-only"), "{chain}");
    assert!(stopped.load(Ordering::SeqCst), "the others were not asked to stop");
    assert!(!outer.is_requested(), "the wish is the caller's");
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_dies_now_and_then_is_kept() {
    let lives = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&lives);
    let (shutdown, mut tasks) = (Shutdown::default(), JoinSet::new());
    let running = supervisor().loop_("restless", move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            Err(Error::transient("once a minute"))
        }
    });
    tasks.spawn(running.run(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(lives.load(Ordering::SeqCst) > 50);
    assert!(tasks.try_join_next().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_does_not_stop_is_dropped_at_the_end_of_the_grace_period() {
    let (shutdown, mut tasks) = (Shutdown::new(Duration::from_secs(7)), JoinSet::new());
    let running = supervisor().loop_("deaf", |_| std::future::pending());
    tasks.spawn(running.run(shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    shutdown.request();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(asked.elapsed(), Duration::from_secs(7));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_supervisor_drops_its_loops() {
    struct OnDrop(tokio::sync::mpsc::UnboundedSender<()>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (sender, mut dropped) = tokio::sync::mpsc::unbounded_channel();
    let running = supervisor().loop_("held", move |_| {
        let guard = OnDrop(sender.clone());
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    let run = running.run(Shutdown::default());
    assert!(tokio::time::timeout(Duration::from_secs(5), run).await.is_err());
    let seen = tokio::time::timeout(Duration::from_secs(5), dropped.recv()).await;
    assert_eq!(seen.expect("the loop still runs"), Some(()));
}
