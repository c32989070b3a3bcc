use std::time::Duration;

use serde_json::json;
use tidings_domain::delivery::DeliveryState;

use crate::{post_office::Act, world::World};

#[tokio::test(start_paused = true)]
async fn stopping_gives_back_what_is_not_begun_and_finishes_what_is() {
    let world = World::new();
    let begun = world.subscribe("begun@example.org").await;
    world.subscribe("waits@example.org").await;
    world.office.script("begun@example.org", [Act::HoldData], Act::Take);
    world.office.script("waits@example.org", [Act::HangBegin], Act::Take);
    let mailer = world.start();
    let id = world.post("x", json!({})).await;
    world.mails(1).await;
    world.until("the other waits", || async { world.office.begun("waits@example.org") == 1 }).await;
    let (office, shutdown) = (world.office.clone(), mailer.shutdown.clone());
    let stopped = tokio::join!(mailer.stop(), async move {
        shutdown.requested().await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        office.go_on();
    })
    .0;
    assert!(stopped < Duration::from_secs(7), "{stopped:?}");
    for row in world.deliveries(id.uuid()).await {
        let expected = if row.key.subscription == begun.id {
            (DeliveryState::Sent, 1)
        } else {
            (DeliveryState::Pending, 0)
        };
        assert_eq!((row.state, row.attempts), expected);
    }
    // The lease was given up with the row: the next mailer takes it at once.
    let next = tokio::time::Instant::now();
    let _mailer = world.start();
    world.all_in(id.uuid(), DeliveryState::Sent).await;
    assert!(next.elapsed() < Duration::from_secs(5), "{:?}", next.elapsed());
    assert!(world.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_within_the_grace_period_whatever_hangs() {
    let world = World::new();
    world.subscribe("ann@example.org").await;
    world.office.script("ann@example.org", [Act::HangData], Act::Take);
    let mailer = world.start();
    let id = world.post("x", json!({})).await;
    world.mails(1).await;
    let grace = mailer.shutdown.grace();
    assert!(mailer.stop().await < grace);
    assert_eq!(world.deliveries(id.uuid()).await[0].state, DeliveryState::Sending);
}

#[tokio::test(start_paused = true)]
async fn stopping_at_any_moment_under_load_uses_no_attempt() {
    let mut world = World::new();
    world.settings.concurrency = 4;
    for number in 0..3 {
        world.subscribe(&format!("a{number}@example.org")).await;
    }
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(world.post(&format!("{number}"), json!({})).await);
    }
    for millis in [0, 3, 11, 17, 23, 31, 43, 59, 71, 97] {
        let mailer = world.start();
        tokio::time::sleep(Duration::from_millis(millis)).await;
        mailer.stop().await;
    }
    let last = tokio::time::Instant::now();
    let _mailer = world.start();
    for id in ids {
        for row in world.all_in(id.uuid(), DeliveryState::Sent).await {
            assert_eq!((row.attempts, row.unknowns), (1, 0));
        }
    }
    // What was claimed was given back, not left to its lease of a minute.
    assert!(last.elapsed() < Duration::from_secs(30), "{:?}", last.elapsed());
    assert_eq!(world.office.recipients().len(), 90, "a stop doubled or lost a mail");
    assert!(world.letters().await.is_empty());
}
