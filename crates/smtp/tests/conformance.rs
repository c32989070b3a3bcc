//! SMTP passes the suite of the mail port, against a scripted server.

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tidings_conformance::{Adapter, Disturbance, Fixture, Need, OpenInsert, Ports, SentMail, Suite};
use tidings_domain::ports::NewItem;
use tidings_servers::smtp::{Act, SmtpServer, Step};
use tidings_smtp::{SmtpMail, SmtpSettings};
use tokio::sync::Mutex;

struct SmtpAdapter;

#[async_trait]
impl Adapter for SmtpAdapter {
    fn suites(&self) -> Vec<Suite> {
        vec![Suite::Mail]
    }

    fn cannot(&self, need: Need) -> Option<&'static str> {
        match need {
            Need::Disturb(
                Disturbance::Unavailable
                | Disturbance::MailTransient
                | Disturbance::MailRecipient
                | Disturbance::MailPermanent
                | Disturbance::MailUnknown
                | Disturbance::MailLogin,
            ) => None,
            _ => Some("it is no broker and no store"),
        }
    }

    async fn install(&self) -> Box<dyn Fixture> {
        Box::new(SmtpFixture { server: Mutex::new(SmtpServer::start().await) })
    }
}

struct SmtpFixture {
    server: Mutex<SmtpServer>,
}

#[async_trait]
impl Fixture for SmtpFixture {
    async fn open(&self) -> Ports {
        let settings = SmtpSettings::from_url(&self.server.lock().await.url()).expect("a URL of ours");
        let mail = SmtpMail::new(settings).expect("settings without TLS");
        Ports { mail: Some(Arc::new(mail)), ..Ports::default() }
    }

    async fn elapse(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn disturb(&self, what: Disturbance) {
        let mut server = self.server.lock().await;
        match what {
            Disturbance::Unavailable => server.stop().await,
            Disturbance::MailTransient => server.on(Step::Rcpt, Act::Reply("451 4.3.0 try again later")),
            Disturbance::MailRecipient => server.on(Step::Rcpt, Act::Reply("550 5.1.1 no such user")),
            Disturbance::MailPermanent => server.on(Step::Message, Act::Reply("554 5.7.1 refused")),
            Disturbance::MailUnknown => server.on(Step::Message, Act::Close),
            Disturbance::MailLogin => {
                server.on(Step::Mail, Act::Reply("530 5.7.0 authentication required"));
            }
            other => unreachable!("{other:?} is excluded"),
        }
    }

    async fn mend(&self) {
        let mut server = self.server.lock().await;
        server.clear_rules();
        server.start_again().await;
    }

    async fn open_insert(&self, _item: NewItem) -> Box<dyn OpenInsert> {
        unreachable!("it is no store")
    }

    async fn mails(&self) -> Vec<SentMail> {
        let sent = |mail: tidings_servers::smtp::ReceivedMail| SentMail {
            from: mail.from,
            to: mail.to,
            message: Bytes::from(mail.source),
        };
        self.server.lock().await.mails().into_iter().map(sent).collect()
    }
}

fn main() -> ExitCode {
    tidings_conformance::main(SmtpAdapter).exit_code()
}
