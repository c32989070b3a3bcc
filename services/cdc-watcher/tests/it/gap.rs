use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tidings_cdc_watcher::Context;
use tidings_domain::{
    Result,
    ports::{ChangeStream, Changes, Queue},
};
use tidings_runtime::health::PartState;

use crate::setup::Setup;

#[tokio::test(start_paused = true)]
async fn a_gap_stops_it_by_name_and_nothing_is_skipped() {
    let mut setup = Setup::new();
    setup.insert_all([1]);
    setup.start();
    setup.until_confirmed().await;
    setup.memory.lose_changes();
    setup.insert_all([2]);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let PartState::Stopped(reason) = setup.part() else { panic!("{:?}", setup.part()) };
    assert!(reason.contains("gap") && reason.contains("tidings recover"), "{reason}");
    assert!(!setup.health.report().ready);
    assert_eq!((setup.memory.depth(Queue::Mail), setup.memory.unconfirmed()), (1, 1));
    assert!(setup.tasks.try_join_next().is_none(), "the process stays");
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_second_watcher_stands_by_and_takes_over() {
    let mut first = Setup::new();
    first.start();
    first.insert_all([1]);
    first.until_confirmed().await;

    let mut second = Setup::new();
    second.memory = first.memory.clone();
    second.bus = std::sync::Arc::clone(&first.bus);
    second.changes = std::sync::Arc::clone(&first.changes);
    second.start();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(second.part(), PartState::StandingBy);
    assert!(second.health.report().ready);

    first.crash().await;
    first.insert_all([2]);
    second.until_confirmed().await;
    assert_eq!(second.part(), PartState::Up);
    second.stop().await;
}

/// A stream whose opening never ends; it stands by or its store is frozen, as a test says.
#[derive(Default)]
struct Hanging {
    stands_by: AtomicBool,
}

#[async_trait]
impl Changes for Hanging {
    async fn open(&self) -> Result<Box<dyn ChangeStream>> {
        std::future::pending().await
    }

    fn is_standing_by(&self) -> bool {
        self.stands_by.load(Ordering::Relaxed)
    }

    async fn backlog(&self) -> Result<u64> {
        Ok(0)
    }
}

#[tokio::test(start_paused = true)]
async fn one_whose_store_does_not_answer_is_not_ready_and_does_not_stand_by() {
    let mut setup = Setup::new();
    let changes = Arc::new(Hanging::default());
    let context = Context { changes: Arc::<Hanging>::clone(&changes), ..setup.context() };
    setup.tasks.spawn(tidings_cdc_watcher::run(context, setup.shutdown.clone()));
    for stands_by in [false, true, false] {
        changes.stands_by.store(stands_by, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let part = setup.part();
        assert_eq!(part == PartState::StandingBy, stands_by, "{part:?}");
        assert!(stands_by || matches!(part, PartState::Waiting(_)), "{part:?}");
        assert_eq!(setup.health.report().ready, stands_by);
    }
    setup.stop().await;
}
