//! Faults of the mail server.

use std::time::Duration;

use serde_json::Value;
use tidings_servers::smtp::{Act, Rule, Step};

use super::{super::stack::Stack, load::Load};

async fn start(settings: &[(&str, &str)]) -> Stack {
    let stack = Stack::start_with(settings).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    stack
}

#[tokio::test]
async fn a_mail_server_that_is_slow_and_refuses_for_now_gets_every_mail_once() {
    let stack = start(&[]).await;
    stack.smtp.rule(Rule::new(Step::Message, Act::Slowly(Duration::from_millis(30))).after(20).times(20));
    stack.smtp.rule(Rule::new(Step::Greeting, Act::ReplyAndClose("421 too many connections")).times(5));
    stack.smtp.rule(Rule::new(Step::Mail, Act::Reply("451 4.3.0 later")).after(10).times(10));
    stack.smtp.rule(Rule::new(Step::Rcpt, Act::Reply("450 4.2.1 greylisted")).after(30).times(10));
    stack.smtp.rule(Rule::new(Step::Message, Act::Reply("452 4.3.1 no room now")).after(40).times(10));
    let load = Load::on(&stack);
    load.until_accepted_more(200).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.failed), (0, 0, 0), "{figures:?}");
    // Each refusal is one: thirty of them, few for one delivery.
    assert!((2..10).contains(&figures.most_attempts), "{figures:?}");
}

#[tokio::test]
async fn a_recipient_who_is_refused_for_good_takes_no_neighbour_along() {
    let stack = start(&[]).await;
    stack.subscribe_confirmed(&["nobody@example.com"]).await;
    stack.smtp.rule(Rule::new(Step::Rcpt, Act::Reply("550 5.1.1 no such user")).to("nobody@example.com"));
    let load = Load::on(&stack);
    load.until_accepted_more(80).await;
    load.pause().await;
    let figures = load.ledger().balances(&stack, 2).await;
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
    assert_eq!((figures.failed, figures.mails), (figures.accepted, figures.accepted), "{figures:?}");
    assert!(figures.dead_letters.iter().all(|letter| letter["reason"] == "refused"), "{figures:?}");
    let letters = figures.dead_letters.len();
    assert_eq!(letters, figures.accepted);

    // The server has the mailbox now, and a person sends them again.
    stack.smtp.clear_rules();
    load.resume();
    load.until_accepted_more(20).await;
    let redrive = stack.request(reqwest::Method::POST, "/v1/dead-letters/redrive");
    stack.ok(redrive.json(&serde_json::json!({ "queue": "deliveries" }))).await;
    let ledger = load.end().await;
    super::super::stack::until("no dead letter is left", async || stack.dead_letters().await.is_empty())
        .await;
    let figures = ledger.balances(&stack, 2).await;
    assert_eq!((figures.mails, figures.failed), (2 * figures.accepted, 0), "{figures:?}");
}

#[tokio::test]
async fn mails_dropped_in_the_middle_are_unknown_and_counted() {
    let stack = start(&[]).await;
    stack.smtp.rule(Rule::new(Step::Body, Act::Close).after(10).times(10));
    stack.smtp.rule(Rule::new(Step::Message, Act::Close).after(40).times(10));
    // The server takes it, and its answer is lost: what comes again is a second mail.
    stack.smtp.rule(Rule::new(Step::Message, Act::Garbage(b"\0\xff no reply\r\n")).after(60).times(5));
    let load = Load::on(&stack);
    load.until_accepted_more(150).await;
    // And whatever is under way, at any moment of it.
    stack.smtp.on(Step::Message, Act::Slowly(Duration::from_millis(5)));
    for _ in 0..5 {
        load.until_accepted_more(10).await;
        stack.to_smtp.close_connections().await;
    }
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert!(figures.unknowns >= 15, "{figures:?}");
}

#[tokio::test]
async fn a_mail_server_that_is_away_longer_than_all_retries_uses_no_attempt() {
    // Two attempts a second apart are all.
    let mut stack = start(&[("TIDINGS_MAILER_ATTEMPTS", "2")]).await;
    let load = Load::on(&stack);
    load.until_accepted_more(40).await;
    load.pause().await;
    load.ledger().settled(&stack).await;
    stack.smtp.stop().await;
    load.resume();
    load.until_accepted_more(60).await;
    let mailer = stack.process("mailer");
    let report = mailer.until("waiting for the mail server", |report| report["degraded"] == true).await;
    assert_eq!(report["dependencies"]["smtp"]["state"], "waiting", "{report:#}");
    // The fault: it is away for this long.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(stack.dead_letters().await, Vec::<Value>::new());
    stack.smtp.start_again().await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}
