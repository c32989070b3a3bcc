//! `Mail`, `MailTransaction` and, where there is a catcher, `Mailbox`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidings_domain::ports::{Mail, MailEnvelope, MailError, MailErrorClass, MailPhase};
use tokio::task::JoinSet;

use crate::{Disturbance, Fixture, Need, SentMail, runner::suite, samples::email};

suite!(Mail {
    a_mail_is_taken_as_it_was_given,
    dots_and_long_lines_come_through,
    a_large_mail_is_taken,
    a_dropped_transaction_sent_nothing,
    a_probe_sends_nothing,
    many_at_once_are_each_taken_once,
    transactions_after_a_dropped_one_are_in_step,
    a_server_that_is_away_is_unavailable [Need::Disturb(Disturbance::Unavailable)],
    a_4xx_to_the_recipient_is_transient [Need::Disturb(Disturbance::MailTransient)],
    a_5xx_to_the_recipient_is_about_the_recipient [Need::Disturb(Disturbance::MailRecipient)],
    a_5xx_to_the_mail_is_permanent [Need::Disturb(Disturbance::MailPermanent)],
    a_connection_lost_after_the_mail_is_unknown [Need::Disturb(Disturbance::MailUnknown)],
    a_refused_login_is_said [Need::Disturb(Disturbance::MailLogin)],
});

fn envelope(to: &str) -> MailEnvelope {
    MailEnvelope { from: email("sender"), to: email(to) }
}

fn mail(text: &str) -> Bytes {
    let head =
        "From: sender@example.org\r\nTo: reader@example.org\r\nSubject: A\r\nMessage-ID: <1@example.org>\r\n";
    Bytes::from(format!("{head}Content-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"))
}

async fn send(port: &dyn Mail, to: &str, message: Bytes) -> Result<(), MailError> {
    let reply = port.begin(&envelope(to)).await?.data(message).await?;
    assert!((200..300).contains(&reply.code), "a reply that takes the mail is a 2xx: {reply:?}");
    Ok(())
}

async fn must_send(port: &dyn Mail, to: &str, message: Bytes) {
    send(port, to, message).await.unwrap_or_else(|error| panic!("send to {to}: {error}"));
}

/// What the server has taken, once it is `count` mails.
async fn taken(fixture: &dyn Fixture, count: usize) -> Vec<SentMail> {
    let mails = fixture.mails().await;
    assert_eq!(mails.len(), count, "{:?}", mails.iter().map(|mail| &mail.to).collect::<Vec<_>>());
    mails
}

async fn a_mail_is_taken_as_it_was_given(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.mail();
    must_send(&*port, "reader", mail("Zażółć 🎉")).await;
    let taken = taken(&*fixture, 1).await.remove(0);
    assert_eq!((taken.from.as_str(), taken.to.as_str()), ("sender@example.org", "reader@example.org"));
    assert_eq!(taken.message, mail("Zażółć 🎉"));
}

async fn dots_and_long_lines_come_through(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.mail();
    let text = format!(".\r\n..\r\n.x\r\nend.\r\n\r\n.\r\nQUIT\r\n{}\r\n.", "y".repeat(900));
    must_send(&*port, "reader", mail(&text)).await;
    assert_eq!(taken(&*fixture, 1).await[0].message, mail(&text));
}

async fn a_large_mail_is_taken(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.mail();
    let text = format!("{}\r\n", "z".repeat(76)).repeat(7000);
    must_send(&*port, "reader", mail(&text)).await;
    assert!(taken(&*fixture, 1).await[0].message == mail(&text), "the mail differs");
}

async fn a_dropped_transaction_sent_nothing(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.mail();
    for _ in 0..3 {
        drop(port.begin(&envelope("nobody")).await.expect("begin"));
    }
    must_send(&*port, "reader", mail("after")).await;
    assert_eq!(taken(&*fixture, 1).await[0].to, "reader@example.org");
}

async fn a_probe_sends_nothing(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.mail();
    for _ in 0..5 {
        port.ping().await.expect("ping");
    }
    taken(&*fixture, 0).await;
}

async fn many_at_once_are_each_taken_once(fixture: Arc<dyn Fixture>) {
    let mut tasks = JoinSet::new();
    let port = fixture.open().await.mail();
    for sender in 0..8 {
        let port = Arc::clone(&port);
        tasks.spawn(async move {
            for number in 0..10 {
                must_send(&*port, &format!("reader-{sender}-{number}"), mail(&format!("{sender} {number}")))
                    .await;
            }
        });
    }
    tasks.join_all().await;
    let mails = taken(&*fixture, 80).await;
    let mut got: Vec<_> = mails.iter().map(|sent| (sent.to.clone(), sent.message.clone())).collect();
    got.sort();
    let each = |sender| {
        (0..10).map(move |number| {
            (format!("reader-{sender}-{number}@example.org"), mail(&format!("{sender} {number}")))
        })
    };
    let mut expected: Vec<_> = (0..8).flat_map(each).collect();
    expected.sort();
    assert!(got == expected, "each mail goes to its own recipient, once");
}

async fn transactions_after_a_dropped_one_are_in_step(fixture: Arc<dyn Fixture>) {
    let port = fixture.open().await.mail();
    for round in 0..15_u64 {
        // Dropped at whatever step it has come to: the session that it used must not answer the next one.
        let patience = Duration::from_micros(round * 200);
        let dropped = send(&*port, "dropped", mail("dropped"));
        drop(tokio::time::timeout(patience, dropped).await);
        must_send(&*port, &format!("reader-{round}"), mail(&format!("text {round}"))).await;
    }
    let mails = fixture.mails().await;
    let kept: Vec<_> = mails.into_iter().filter(|sent| sent.to != "dropped@example.org").collect();
    assert_eq!(kept.len(), 15);
    for (round, sent) in kept.iter().enumerate() {
        assert_eq!(sent.to, format!("reader-{round}@example.org"));
        assert_eq!(sent.message, mail(&format!("text {round}")));
    }
}

async fn refused(port: &dyn Mail) -> MailError {
    let limit = Duration::from_secs(90);
    let sent = tokio::time::timeout(limit, send(port, "reader", mail("refused"))).await;
    sent.unwrap_or_else(|_| panic!("every phase ends within {limit:?}")).expect_err("the mail is not taken")
}

/// After `what` a mail ends with `class`, and after the mend another is taken.
async fn ends_with(fixture: &dyn Fixture, what: Disturbance, class: MailErrorClass) -> MailError {
    let port = fixture.open().await.mail();
    must_send(&*port, "before", mail("before")).await;
    fixture.disturb(what).await;
    let error = refused(&*port).await;
    assert_eq!(error.class, class, "{error}");
    fixture.mend().await;
    must_send(&*port, "after", mail("after")).await;
    error
}

async fn a_server_that_is_away_is_unavailable(fixture: Arc<dyn Fixture>) {
    let error = ends_with(&*fixture, Disturbance::Unavailable, MailErrorClass::Unavailable).await;
    assert!(error.phase < MailPhase::MailFrom, "{error}");
    let port = fixture.open().await.mail();
    port.ping().await.expect("it is back");
    fixture.disturb(Disturbance::Unavailable).await;
    assert_eq!(port.ping().await.expect_err("it is away").class, MailErrorClass::Unavailable);
}

async fn a_4xx_to_the_recipient_is_transient(fixture: Arc<dyn Fixture>) {
    let error = ends_with(&*fixture, Disturbance::MailTransient, MailErrorClass::Transient).await;
    assert!((400..500).contains(&error.code), "{error}");
    taken(&*fixture, 2).await;
}

async fn a_5xx_to_the_recipient_is_about_the_recipient(fixture: Arc<dyn Fixture>) {
    let error = ends_with(&*fixture, Disturbance::MailRecipient, MailErrorClass::Recipient).await;
    assert!((500..600).contains(&error.code) && error.phase == MailPhase::RcptTo, "{error}");
    taken(&*fixture, 2).await;
}

async fn a_5xx_to_the_mail_is_permanent(fixture: Arc<dyn Fixture>) {
    let error = ends_with(&*fixture, Disturbance::MailPermanent, MailErrorClass::Permanent).await;
    assert!((500..600).contains(&error.code), "{error}");
    taken(&*fixture, 2).await;
}

async fn a_connection_lost_after_the_mail_is_unknown(fixture: Arc<dyn Fixture>) {
    let error = ends_with(&*fixture, Disturbance::MailUnknown, MailErrorClass::Unknown).await;
    assert_eq!(error.phase, MailPhase::Message, "{error}");
    let count = fixture.mails().await.len();
    assert!((2..=3).contains(&count), "it was taken or was not, and once: {count} mails");
}

async fn a_refused_login_is_said(fixture: Arc<dyn Fixture>) {
    let error = ends_with(&*fixture, Disturbance::MailLogin, MailErrorClass::Login).await;
    assert!(matches!(error.phase, MailPhase::Auth | MailPhase::MailFrom), "{error}");
    taken(&*fixture, 2).await;
}
