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
use tidings_servers::smtp::{SmtpServer, Step};
use tidings_smtp::{SmtpMail, SmtpSettings};

/// Settings for `server` whose deadlines are so long that none is reached.
fn settings(server: &SmtpServer) -> SmtpSettings {
    SmtpSettings::from_url(&server.url()).unwrap()
}

/// The same with a short deadline for `step` only, so that a busy machine ends no other.
fn impatient(server: &SmtpServer, step: Step) -> SmtpSettings {
    let mut settings = settings(server);
    let deadlines = &mut settings.deadlines;
    let deadline = match step {
        Step::Greeting => &mut deadlines.greeting,
        Step::Ehlo => &mut deadlines.ehlo,
        Step::StartTls => &mut deadlines.starttls,
        Step::Auth => &mut deadlines.auth,
        Step::Mail | Step::Rset | Step::Noop => &mut deadlines.mail,
        Step::Rcpt => &mut deadlines.rcpt,
        Step::Data => &mut deadlines.data,
        Step::Body | Step::Message => &mut deadlines.message,
        Step::Quit => &mut deadlines.quit,
    };
    *deadline = Duration::from_millis(250);
    settings
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
