//! The mailer with the real adapter against a scripted SMTP server, in real time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use tidings_domain::delivery::DeliveryState;
use tidings_runtime::telemetry::Telemetry;
use tidings_servers::smtp::{Act, Rule, SmtpServer, Step};
use tidings_smtp::{Deadlines, SmtpMail, SmtpSettings};

use crate::world::World;

#[tokio::test]
async fn whatever_the_server_does_each_recipient_is_mailed_and_only_unknowns_twice() {
    let mut server = SmtpServer::start().await;
    // Of every kind of fault some, spread over the run.
    for (step, act, after, times) in [
        (Step::Message, Act::Close, 10, 3),
        (Step::Message, Act::Reply("451 4.3.0 later"), 40, 3),
        (Step::Rcpt, Act::Reply("451 4.2.0 greylisted"), 20, 3),
        (Step::Rcpt, Act::ReplyAndClose("421 4.7.0 closing"), 50, 3),
        (Step::Body, Act::Close, 70, 2),
        (Step::Data, Act::Close, 90, 2),
        (Step::Message, Act::Hang, 100, 1),
        (Step::Mail, Act::Close, 110, 2),
    ] {
        server.rule(Rule::new(step, act).after(after).times(times));
    }
    let mut world = World::new();
    world.settings.retry_first_s = 1;
    world.settings.outage_first_ms = 20;
    let second = Duration::from_secs(1);
    let deadlines = Deadlines { message: second, rcpt: second, data: second, ..Deadlines::default() };
    let smtp =
        SmtpSettings { max_connections: 4, deadlines, ..SmtpSettings::from_url(&server.url()).unwrap() };
    let _mailer = world.start_with(Arc::new(SmtpMail::new(smtp).unwrap()), Telemetry::none());
    world.subscribe("ann@example.org").await;
    world.subscribe("bob@example.org").await;
    let mut ids = Vec::new();
    for number in 0..100 {
        ids.push(world.post(&format!("message {number}"), json!({})).await);
        if number == 60 {
            server.wait_until("half are mailed", |seen| seen.taken().len() > 60).await;
            server.stop().await;
        }
    }
    world.until("the part waits", || async { world.part("send mails").contains("Waiting") }).await;
    server.start_again().await;
    let mut unknowns = BTreeMap::new();
    for id in ids {
        for row in world.all_in(id.uuid(), DeliveryState::Sent).await {
            let message_id = row.key.message_id("localhost.localdomain");
            unknowns.insert(format!("<{message_id}>"), row.unknowns as usize);
        }
    }
    let seen = server.seen();
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for mail in &seen.mails {
        *copies.entry(mail.header("message-id").unwrap()).or_default() += usize::from(mail.taken);
    }
    assert_eq!(unknowns.len(), 200);
    for (message_id, unknown) in &unknowns {
        let copies = copies.get(message_id).copied().unwrap_or(0);
        assert!(copies >= 1, "{message_id} was settled as sent and never taken");
        assert!(copies <= 1 + unknown, "{message_id}: {copies} copies with {unknown} unknowns");
    }
    assert!(unknowns.values().sum::<usize>() >= 4, "the faults after DATA did not happen");
    assert!(seen.most_open_sessions <= 4);
    assert!(world.letters().await.is_empty());
}
