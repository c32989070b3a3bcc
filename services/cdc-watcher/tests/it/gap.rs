use std::time::Duration;

use tidings_domain::ports::Queue;
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
