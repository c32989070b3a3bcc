//! The mail port against a scripted server: every class of failure, cancellation at every step, the bound on
//! connections.

#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod bound;
mod cancel;
mod failures;
mod tls;

use std::time::Duration;

use bytes::Bytes;
use tidings_domain::{
    address::EmailAddress,
    ports::{Mail, MailEnvelope, MailError, MailReply},
};
use tidings_servers::smtp::SmtpServer;
use tidings_smtp::{Deadlines, SmtpMail, SmtpSettings};

/// Settings for `server` whose deadlines are so long that reaching one fails the test by its own limit.
fn settings(server: &SmtpServer) -> SmtpSettings {
    SmtpSettings::from_url(&server.url()).unwrap()
}

/// The same with short deadlines, for tests in which one is reached.
fn impatient(server: &SmtpServer) -> SmtpSettings {
    let short = Duration::from_millis(100);
    let deadlines = Deadlines {
        connect: short,
        greeting: short,
        ehlo: short,
        starttls: short,
        auth: short,
        mail: short,
        rcpt: short,
        data: short,
        message: short,
        quit: short,
    };
    SmtpSettings { deadlines, ..settings(server) }
}

fn mail(settings: SmtpSettings) -> SmtpMail {
    SmtpMail::new(settings).unwrap()
}

fn envelope(to: &str) -> MailEnvelope {
    let address = |text| EmailAddress::parse(text).unwrap();
    MailEnvelope { from: address("tidings@example.com"), to: address(to) }
}

async fn send(mail: &SmtpMail, to: &str, message: &'static str) -> Result<MailReply, MailError> {
    mail.begin(&envelope(to)).await?.data(Bytes::from_static(message.as_bytes())).await
}

#[tokio::test]
async fn a_mail_arrives_byte_for_byte_over_one_kept_connection() {
    let server = SmtpServer::start().await;
    let mail = mail(settings(&server));
    let message = "Subject: x\r\n\r\n.\r\n..two\r\nlast\r\n\r\n";
    for number in 1..=100 {
        let reply = send(&mail, "ann@example.org", message).await.unwrap();
        assert_eq!((reply.code, reply.text), (250, format!("2.0.0 queued as {number}")));
    }
    let seen = server.seen();
    assert_eq!(seen.mails.len(), 100);
    assert!(seen.mails.iter().all(|got| got.source == message.as_bytes()), "dots or line ends were changed");
    assert_eq!((&*seen.mails[0].from, &*seen.mails[0].to), ("tidings@example.com", "ann@example.org"));
    assert_eq!(seen.sessions, 1, "the connection was not kept");
}
