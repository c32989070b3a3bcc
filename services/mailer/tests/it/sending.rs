use std::time::Duration;

use serde_json::json;
use tidings_domain::{
    dead_letter::DeadLetterSelection,
    delivery::DeliveryState,
    ports::{Clock, MailErrorClass, MailPhase},
    subscription::Act as SubscriptionAct,
};
use tidings_mailer::Ambiguous;
use tokio::time::Instant;

use crate::{
    post_office::{Act, error},
    world::World,
};

fn transient() -> Act {
    Act::RefuseBegin(error(
        MailPhase::RcptTo,
        MailErrorClass::Transient,
        451,
        "4.2.0 <ann@example.org> greylisted",
    ))
}

fn refused() -> Act {
    Act::RefuseBegin(error(
        MailPhase::RcptTo,
        MailErrorClass::Recipient,
        550,
        "5.1.1 <ANN@example.org> unknown",
    ))
}

fn lost() -> Act {
    Act::RefuseData(error(MailPhase::Message, MailErrorClass::Unknown, 0, "connection reset"))
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_is_made_again_with_growing_waits_and_then_given_up() {
    let mut world = World::new();
    (world.settings.retry_first_s, world.settings.retry_most_s) = (3, 400);
    world.subscribe("ann@example.org").await;
    world.office.script("ann@example.org", [], transient());
    let _mailer = world.start();
    let began = Instant::now();
    let id = world.post("x", json!({})).await;
    let row = world.all_in(id.uuid(), DeliveryState::Failed).await.remove(0);
    assert_eq!((row.attempts, row.unknowns, world.office.begun("ann@example.org")), (10, 0, 10));
    // 3 s doubling to 400 s, each between half and whole: nine waits.
    let whole: u64 = (0..9).map(|doublings| (3_u64 << doublings).min(400)).sum();
    let (least, most) = (Duration::from_secs(whole / 2), Duration::from_secs(whole + 60));
    assert!((least..most).contains(&began.elapsed()), "{:?}", began.elapsed());
    assert!(
        row.answers.iter().all(|answer| answer.code == 451 && !answer.text.contains("ann")),
        "{:?}",
        row.answers
    );
    let letter = world.letters().await.remove(0);
    assert_eq!((letter.reason.as_str(), letter.attempts), ("attempts_exhausted", 10));
    assert_eq!((letter.delivery, letter.message_id), (Some(row.key), Some(id.uuid())));
    assert!(letter.detail.contains("451") && !letter.detail.contains("ann@"), "{}", letter.detail);
    // Redriven, its attempts begin anew.
    world.office.script("ann@example.org", [transient()], Act::Take);
    world.memory.dead_letters().mark(&DeadLetterSelection::default(), world.clock.now()).await.unwrap();
    let row = world.all_in(id.uuid(), DeliveryState::Sent).await.remove(0);
    assert_eq!(row.attempts, 2);
    world.until("the letter is gone", || async { world.letters().await.is_empty() }).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_recipient_is_given_up_at_once_and_the_others_are_mailed() {
    let world = World::new();
    let ann = world.subscribe("ann@example.org").await;
    world.subscribe("bob@example.org").await;
    world.office.script("ann@example.org", [], refused());
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    world.mails(1).await;
    world.until("a dead letter", || async { !world.letters().await.is_empty() }).await;
    let rows = world.deliveries(id.uuid()).await;
    let row = rows.iter().find(|row| row.key.subscription == ann.id).unwrap();
    assert_eq!((row.state, row.attempts), (DeliveryState::Failed, 1));
    assert_eq!(row.answers[0].text, "5.1.1 <<address>> unknown");
    assert_eq!(world.letters().await[0].reason, "refused");
    assert_eq!(world.office.recipients(), ["bob@example.org"]);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_counted_and_sent_again_as_the_same_mail() {
    let world = World::new();
    world.subscribe("ann@example.org").await;
    world.office.script("ann@example.org", [lost(), lost()], Act::Take);
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    let row = world.all_in(id.uuid(), DeliveryState::Sent).await.remove(0);
    assert_eq!((row.attempts, row.unknowns), (3, 2));
    assert_eq!(row.answers[2].text, "2.0.0 taken for <address>");
    assert!(world.letters().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_held_when_asked_to() {
    let mut world = World::new();
    world.settings.ambiguous = Ambiguous::Hold;
    world.subscribe("ann@example.org").await;
    world.office.script("ann@example.org", [lost()], Act::Take);
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    let row = world.all_in(id.uuid(), DeliveryState::Failed).await.remove(0);
    assert_eq!((row.attempts, row.unknowns), (1, 1));
    assert_eq!(world.letters().await[0].reason, "unknown_held");
    assert!(world.office.recipients().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_crash_while_sending_is_an_unknown_and_the_same_mail_again() {
    for ambiguous in [Ambiguous::Retry, Ambiguous::Hold] {
        let mut world = World::new();
        world.settings.ambiguous = ambiguous;
        world.subscribe("ann@example.org").await;
        world.office.script("ann@example.org", [Act::HangData], Act::Take);
        let mailer = world.start();
        let id = world.post("x", json!({})).await;
        world.mails(1).await;
        mailer.crash().await;
        assert_eq!(world.deliveries(id.uuid()).await[0].state, DeliveryState::Sending);
        let _mailer = world.start();
        if ambiguous == Ambiguous::Retry {
            let row = world.all_in(id.uuid(), DeliveryState::Sent).await.remove(0);
            assert_eq!((row.attempts, row.unknowns), (2, 1));
            let taken = world.office.taken();
            assert_eq!(taken.len(), 2);
            assert_eq!(taken[0].1, taken[1].1, "another attempt is the same mail with the same Message-ID");
        } else {
            let row = world.all_in(id.uuid(), DeliveryState::Failed).await.remove(0);
            assert_eq!((row.attempts, row.unknowns, world.office.taken().len()), (1, 1, 1));
            assert_eq!(world.letters().await[0].reason, "unknown_held");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_unsubscribes_before_the_mail_is_begun_gets_none() {
    let world = World::new();
    let ann = world.subscribe("ann@example.org").await;
    let subscriptions = world.memory.subscriptions();
    let now = world.clock.now();
    // Between planning and DATA: the transaction is begun, `sending` is not recorded yet.
    world.office.when_begun(Box::new(move |_| {
        let subscriptions = std::sync::Arc::clone(&subscriptions);
        Box::pin(async move {
            subscriptions.act(ann.id, SubscriptionAct::Unsubscribe, 0, now).await.unwrap();
        })
    }));
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    let row = world.all_in(id.uuid(), DeliveryState::Suppressed).await.remove(0);
    assert_eq!((row.attempts, world.office.begun("ann@example.org")), (0, 1));
    assert!(world.office.recipients().is_empty(), "DATA was sent to someone who had unsubscribed");
}

#[tokio::test(start_paused = true)]
async fn a_removed_subscription_is_suppressed() {
    let world = World::new();
    let ann = world.subscribe("ann@example.org").await;
    world.office.script("ann@example.org", [transient()], Act::Take);
    let _mailer = world.start();
    let id = world.post("x", json!({})).await;
    world.until("a failed attempt", || async { world.office.begun("ann@example.org") == 1 }).await;
    world
        .until("a row", || async { world.deliveries(id.uuid()).await.iter().any(|row| row.attempts == 1) })
        .await;
    world.memory.subscriptions().remove(ann.id).await.unwrap();
    world.all_in(id.uuid(), DeliveryState::Suppressed).await;
    assert!(world.office.recipients().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_who_never_answers_holds_up_nobody_and_is_nobody_elses() {
    let mut world = World::new();
    world.settings.concurrency = 8;
    let slow = world.subscribe("slow@example.org").await;
    world.subscribe("ann@example.org").await;
    world.office.script("slow@example.org", [Act::HangBegin], Act::Take);
    let _mailers = [world.start(), world.start()];
    for number in 0..50 {
        world.post(&format!("{number}"), json!({})).await;
        let so_far = number + 1;
        world
            .until("ann has hers", || async {
                world.office.recipients().iter().filter(|to| *to == "ann@example.org").count() == so_far
            })
            .await;
    }
    // Much longer than a lease: the one that hangs is still held by the mailer that waits for it.
    tokio::time::sleep(Duration::from_secs(600)).await;
    let count = world.office.recipients().iter().filter(|to| *to == "slow@example.org").count();
    assert_eq!(count, 49, "{:?}", slow.id);
    assert_eq!(world.office.begun("slow@example.org"), 50, "the hanging one was taken by another");
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_carries_its_link_and_nothing_of_a_strangers() {
    let world = World::new();
    let _mailer = world.start();
    let ann = world.subscribe_with("ann@example.org", json!({"evil": ["http://evil.example"]}), false).await;
    let row = world.all_in(ann.id.uuid(), DeliveryState::Sent).await.remove(0);
    assert_eq!(row.attempts, 1);
    let (to, mail) = world.office.taken().remove(0);
    assert_eq!(to, "ann@example.org");
    assert!(mail.contains("/confirm/") && !mail.contains("evil") && !mail.contains("List-Unsubscribe"));
    // Confirmed before the mail is sent, or asked for again: the old one is not sent.
    world.office.script("bob@example.org", [transient()], Act::Take);
    let bob = world.subscribe_with("bob@example.org", json!({}), false).await;
    world.until("an attempt", || async { world.office.begun("bob@example.org") == 1 }).await;
    world
        .memory
        .subscriptions()
        .act(bob.id, SubscriptionAct::Confirm, bob.generation, world.clock.now())
        .await
        .unwrap();
    world.all_in(bob.id.uuid(), DeliveryState::Suppressed).await;
}
