use std::time::Duration;

use tidings_domain::{
    notification::{Cursor, Notification, Plan},
    ports::{Clock as _, NewItem},
};
use tidings_runtime::health::PartState;

use crate::setup::{Setup, message};

const DAY: Duration = Duration::from_secs(86_400);

/// A row that was stored `days` ago.
fn insert(setup: &Setup, number: u128, days: u32) {
    let stored_at = setup.memory.clock().now().minus(DAY * days);
    setup.memory.insert_foreign(NewItem { message: message(number, "text"), stored_at });
}

/// Everyone was looked at for it: nothing of it is open.
async fn expand(setup: &Setup, number: u128) {
    let (message, at) = (message(number, "text"), setup.memory.clock().now());
    let notification = Notification {
        item: message.id,
        round: 0,
        topic: message.topic,
        replay: None,
        captured_at: at,
        published_at: at,
    };
    let (from, to) = (Cursor::Start, Cursor::Finished);
    let plan = Plan { notification, from, page: Vec::new(), to, claim: None, at };
    setup.memory.deliveries().plan(vec![plan]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_past_retention_goes_in_small_steps_and_the_rest_stays() {
    let mut setup = Setup::new();
    setup.settings.retention_batch = 10;
    for number in 1..=25 {
        insert(&setup, number, 31);
        expand(&setup, number).await;
    }
    insert(&setup, 26, 29);
    expand(&setup, 26).await;
    setup.start();
    tokio::time::sleep(Duration::from_secs(2)).await;
    for number in 1..=25 {
        assert!(setup.item(message(number, "text").id).await.is_none(), "{number} is kept");
    }
    assert!(setup.item(message(26, "text").id).await.is_some());
    assert_eq!(setup.part("subscriber: retention"), PartState::Up);
    setup.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_open_past_retention_stays_and_is_named() {
    let mut setup = Setup::new();
    insert(&setup, 1, 31);
    setup.start();
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(setup.item(message(1, "text").id).await.is_some());
    let PartState::Degraded(reason) = setup.part("subscriber: retention") else { panic!("it is silent") };
    assert!(reason.contains("1 item"), "{reason}");
    assert!(setup.health.report().ready);
    setup.stop().await;
}
