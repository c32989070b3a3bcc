use std::time::Duration;

use serde_json::json;
use tidings_domain::{
    delivery::DeliveryState,
    ports::{MailErrorClass, MailPhase},
};
use tidings_memory::Part;

use crate::{
    post_office::{Act, away, error},
    world::World,
};

#[tokio::test(start_paused = true)]
async fn a_mail_server_away_for_longer_than_all_retries_uses_no_attempt_and_mail_goes_on_by_itself() {
    let mut world = World::new();
    (world.settings.retry_first_s, world.settings.retry_most_s) = (3, 400);
    for number in 0..20 {
        world.subscribe(&format!("a{number}@example.org")).await;
    }
    let _mailer = world.start();
    let before = world.post("before", json!({})).await;
    world.all_in(before.uuid(), DeliveryState::Sent).await;
    world.office.set_down(Some(away()));
    let during = world.post("during", json!({})).await;
    // All ten attempts and their waits would be over after 25 minutes.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let part = world.part("send mails");
    assert!(part.contains("Waiting") && part.contains("connection refused"), "{part}");
    assert!(!world.health.report().ready);
    let rows = world.deliveries(during.uuid()).await;
    assert_eq!(rows.len(), 20, "planning goes on");
    assert!(
        rows.iter()
            .all(|row| row.state == DeliveryState::Pending && row.attempts == 0 && row.answers.is_empty())
    );
    // Probed with back-off of at most 30 s, each at least half: not more often than every 15 s in the long run.
    let pings = world.office.pings();
    assert!((120..=270).contains(&pings), "{pings} probes in an hour");
    assert!(world.office.begun("a0@example.org") <= 3, "no mail is tried while the probe fails");
    world.office.set_down(None);
    let back = tokio::time::Instant::now();
    world.all_in(during.uuid(), DeliveryState::Sent).await;
    assert!(back.elapsed() < Duration::from_secs(60), "{:?}", back.elapsed());
    assert!(world.letters().await.is_empty());
    world.until("ready", || async { world.part("send mails").contains("Up") }).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_an_outage_that_people_are_told_of() {
    let world = World::new();
    world.subscribe("ann@example.org").await;
    world.subscribe("bob@example.org").await;
    // The probe succeeds, the sender's address is refused: the pause grows all the same.
    let refused = error(MailPhase::MailFrom, MailErrorClass::Login, 550, "5.7.1 tidings@localhost not yours");
    for to in ["ann@example.org", "bob@example.org"] {
        world.office.script(to, [], Act::RefuseBegin(refused.clone()));
    }
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let part = world.part("send mails");
    assert!(part.contains("550") && part.contains("mail_from") && !part.contains("localhost"), "{part}");
    let tried = world.office.begun("ann@example.org") + world.office.begun("bob@example.org");
    assert!((60..=300).contains(&tried), "{tried} tries in an hour");
    let rows = world.deliveries(id.uuid()).await;
    assert!(rows.iter().all(|row| row.attempts == 0 && row.state == DeliveryState::Pending));
    for to in ["ann@example.org", "bob@example.org"] {
        world.office.script(to, [], Act::Take);
    }
    world.all_in(id.uuid(), DeliveryState::Sent).await;
    assert!(world.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_recipient_at_whom_the_server_hangs_up_stops_nobody_and_is_given_up_in_the_end() {
    let world = World::new();
    let ann = world.subscribe("ann@example.org").await;
    world.subscribe("bob@example.org").await;
    let hangs_up = error(MailPhase::RcptTo, MailErrorClass::Unavailable, 421, "4.7.0 closing");
    world.office.script("ann@example.org", [], Act::RefuseBegin(hangs_up));
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    world.mails(1).await;
    world.until("it is given up", || async { !world.letters().await.is_empty() }).await;
    let rows = world.deliveries(id.uuid()).await;
    let row = rows.iter().find(|row| row.key.subscription == ann.id).unwrap();
    assert_eq!((row.state, row.attempts), (DeliveryState::Failed, 10));
    assert!(world.part("send mails").contains("Up"));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_dies_between_rcpt_and_data_uses_no_attempt() {
    let world = World::new();
    world.subscribe("ann@example.org").await;
    let gone = error(MailPhase::Data, MailErrorClass::Unavailable, 0, "connection reset");
    world.office.script("ann@example.org", [Act::RefuseData(gone)], Act::Take);
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    let row = world.all_in(id.uuid(), DeliveryState::Sent).await.remove(0);
    assert_eq!((row.attempts, row.unknowns), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_away_while_mails_are_under_way_doubles_none() {
    let world = World::new();
    for number in 0..10 {
        let to = format!("a{number}@example.org");
        world.subscribe(&to).await;
        world.office.script(&to, [], Act::HoldData);
    }
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    world.mails(10).await;
    world.memory.set_away(Part::Store, true);
    world.office.go_on();
    // Shorter than a lease: the outcomes wait, and are settled when the store is back.
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(world.part("claim deliveries").contains("Waiting"), "{}", world.part("claim deliveries"));
    world.memory.set_away(Part::Store, false);
    let rows = world.all_in(id.uuid(), DeliveryState::Sent).await;
    assert!(rows.iter().all(|row| (row.attempts, row.unknowns) == (1, 0)));
    assert_eq!(world.office.recipients().len(), 10);
    world.until("up", || async { world.part("claim deliveries").contains("Up") }).await;
}

#[tokio::test(start_paused = true)]
async fn a_bus_or_store_away_at_the_start_is_waited_for() {
    for part in [Part::Bus, Part::Store] {
        let world = World::new();
        world.subscribe("ann@example.org").await;
        let id = world.post("x", json!({})).await;
        world.memory.set_away(part, true);
        let _mailer = world.start();
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert!(!world.health.report().ready, "{part:?}");
        world.memory.set_away(part, false);
        world.all_in(id.uuid(), DeliveryState::Sent).await;
        world.until("ready", || async { world.health.report().ready }).await;
        assert!(world.letters().await.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_refusals_and_the_unsubscribed_hold_up_nobody() {
    let world = World::new();
    let _mailer = world.start();
    let mut gone = Vec::new();
    for number in 0..100 {
        let to = format!("a{number:03}@example.org");
        let subscription = world.subscribe(&to).await;
        if number % 2 == 0 {
            gone.push(subscription.id);
        } else if number < 90 {
            let no = error(MailPhase::RcptTo, MailErrorClass::Recipient, 550, "5.1.1 no such user");
            world.office.script(&to, [], Act::RefuseBegin(no));
        }
    }
    world.office.set_down(Some(away()));
    let id = world.post("x", json!({})).await;
    world.until("all are planned", || async { world.deliveries(id.uuid()).await.len() == 100 }).await;
    for id in gone {
        world.memory.subscriptions().remove(id).await.unwrap();
    }
    world.until("it waits", || async { world.part("send mails").contains("Waiting") }).await;
    world.office.set_down(None);
    let back = tokio::time::Instant::now();
    world
        .until("nothing is open", || async {
            world.deliveries(id.uuid()).await.iter().all(|row| !row.state.is_open())
        })
        .await;
    assert!(back.elapsed() < Duration::from_secs(35), "one at a time for {:?}", back.elapsed());
    assert_eq!(world.office.recipients().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn an_outage_ends_also_with_nothing_left_to_send() {
    let world = World::new();
    let _mailer = world.start();
    let ann = world.subscribe("ann@example.org").await;
    world.office.set_down(Some(away()));
    let id = world.post("x", json!({})).await;
    world.until("it waits", || async { world.part("send mails").contains("Waiting") }).await;
    world.memory.subscriptions().remove(ann.id).await.unwrap();
    world.office.set_down(None);
    world.until("up", || async { world.part("send mails").contains("Up") }).await;
    world.all_in(id.uuid(), DeliveryState::Suppressed).await;
}
