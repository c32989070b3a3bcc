//! The port itself: callers on one side, sessions on the other.
#![expect(
    clippy::disallowed_methods,
    reason = "a session outlives its callers, so that none can put it out of step"
)]

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use tidings_domain::{
    Result as DomainResult,
    ports::{
        Dependency, DependencyState, Mail, MailEnvelope, MailError, MailErrorClass, MailPhase, MailReply,
        MailTransaction,
    },
};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    connection::Connector,
    failure::Failure,
    pool::Pool,
    session::{Job, Session, Submission},
    settings::SmtpSettings,
};

/// Mail by SMTP. Dropped, it closes the connections that wait for work; those at work finish and close.
pub struct SmtpMail {
    connector: Arc<Connector>,
    pool: Arc<Pool>,
    closing: CancellationToken,
    sessions: AtomicU64,
    seen: Arc<Seen>,
    _closes: DropGuard,
}

impl SmtpMail {
    /// Makes ready to send; connects to nothing yet. *Misconfigured* when the TLS settings cannot be used.
    pub fn new(settings: SmtpSettings) -> DomainResult<Self> {
        let pool = Pool::new(settings.max_connections);
        let closing = CancellationToken::new();
        let seen = Arc::new(Seen { server: settings.server(), state: Mutex::new(DependencyState::Up) });
        Ok(Self {
            connector: Arc::new(Connector::new(settings)?),
            pool,
            _closes: closing.clone().drop_guard(),
            closing,
            sessions: AtomicU64::new(0),
            seen,
        })
    }

    /// Gives `job` to a session: one that waits for work, or a new one.
    async fn submit(&self, job: Job) {
        let ticket = self.pool.ticket().await;
        if let Some((job, vacancy)) = ticket.use_for(job) {
            let session = Session {
                id: self.sessions.fetch_add(1, Ordering::Relaxed),
                connector: Arc::clone(&self.connector),
                pool: Arc::clone(&self.pool),
                closing: self.closing.clone(),
            };
            tokio::spawn(session.run(job, vacancy));
        }
    }
}

#[async_trait]
impl Mail for SmtpMail {
    async fn begin(&self, envelope: &MailEnvelope) -> Result<Box<dyn MailTransaction>, MailError> {
        let (answer, answered) = oneshot::channel();
        self.submit(Job::Begin { envelope: envelope.clone(), answer }).await;
        let outcome = answered.await.unwrap_or_else(|_| Err(gone(MailPhase::Connect)));
        let submit = self.seen.note(outcome)?;
        Ok(Box::new(Transaction { submit, seen: Arc::clone(&self.seen) }))
    }

    async fn ping(&self) -> Result<(), MailError> {
        let (answer, answered) = oneshot::channel();
        self.submit(Job::Ping { answer }).await;
        let outcome = answered.await.unwrap_or_else(|_| Err(gone(MailPhase::Connect)));
        self.seen.note(outcome)
    }
}

/// A transaction that was begun. Dropped, the session resets and nothing was sent.
struct Transaction {
    submit: oneshot::Sender<Submission>,
    seen: Arc<Seen>,
}

#[async_trait]
impl MailTransaction for Transaction {
    async fn data(self: Box<Self>, message: Bytes) -> Result<MailReply, MailError> {
        if has_bare_line_end(&message) {
            // Servers differ in what they take for a line's end: one could be made to see a second mail.
            return Err(MailError {
                phase: MailPhase::Data,
                class: MailErrorClass::Permanent,
                code: 0,
                text: "the mail holds a CR or LF that is no CRLF".to_owned(),
            });
        }
        let (answer, answered) = oneshot::channel();
        if self.submit.send(Submission { message, answer }).is_err() {
            return self.seen.note(Err(gone(MailPhase::Data)));
        }
        let outcome = answered.await.unwrap_or_else(|_| Err(gone(MailPhase::Message)));
        self.seen.note(outcome)
    }
}

/// The session's task ended without an answer, which only a runtime that shuts down or a panic can do.
fn gone(phase: MailPhase) -> Failure {
    Failure { phase, code: 0, text: "the session ended without an answer".to_owned() }
}

fn has_bare_line_end(message: &[u8]) -> bool {
    let mut before = 0;
    for &byte in message {
        if (byte == b'\n') != (before == b'\r') {
            return true;
        }
        before = byte;
    }
    before == b'\r'
}

/// What was last seen of the server.
struct Seen {
    server: String,
    state: Mutex<DependencyState>,
}

impl Seen {
    fn note<T>(&self, outcome: Result<T, Failure>) -> Result<T, MailError> {
        let outcome = outcome.map_err(MailError::from);
        let state = match &outcome {
            Err(error) if matches!(error.class, MailErrorClass::Unavailable | MailErrorClass::Login) => {
                // A reply to MAIL or RCPT may hold an address.
                let text = match error.phase {
                    MailPhase::MailFrom | MailPhase::RcptTo | MailPhase::Data => "",
                    _ => error.text.as_str(),
                };
                let phase = error.phase.as_str();
                let code = if error.code == 0 { String::new() } else { format!(" {}", error.code) };
                let reason = format!("mail server {}, {phase}:{code} {text}", self.server);
                DependencyState::Down(reason.trim_end_matches([' ', ':']).to_owned())
            }
            Err(error) if error.class == MailErrorClass::Unknown => {
                DependencyState::Degraded(format!("mail server {}: no reply to a mail", self.server))
            }
            _ => DependencyState::Up,
        };
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        outcome
    }
}

impl Dependency for SmtpMail {
    fn name(&self) -> &str {
        "smtp"
    }

    fn state(&self) -> DependencyState {
        self.seen.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_line_ends_are_found() {
        for good in ["", "a", "a\r\n", "a\r\n\r\n.\r\nb"] {
            assert!(!has_bare_line_end(good.as_bytes()), "{good:?}");
        }
        for bad in ["\n", "\r", "a\nb", "a\rb\r\n", "a\r\n.\r", "a\r\r\n", "\n.\r\n"] {
            assert!(has_bare_line_end(bad.as_bytes()), "{bad:?}");
        }
    }
}
