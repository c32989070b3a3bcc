//! `Mail`: what the mail server took, taken down.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidings_domain::{
    ports::{
        Clock as _, Mail, MailEnvelope, MailError, MailErrorClass, MailPhase, MailReply, MailTransaction,
    },
    time::Timestamp,
};

use crate::{
    Event, Memory, Part, PausedClock,
    shared::{Shared, State},
};

/// A mail that the server took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenMail {
    /// Its number, counting up from 1.
    pub id: u64,
    /// MAIL FROM and RCPT TO.
    pub envelope: MailEnvelope,
    /// Its source, byte for byte.
    pub message: Bytes,
    /// When it was taken.
    pub at: Timestamp,
}

impl TakenMail {
    /// A header's value, unfolded, as it is written; none where there is no such header.
    pub fn header(&self, name: &str) -> Option<String> {
        let source = String::from_utf8_lossy(&self.message);
        let head =
            source.split("\r\n\r\n").next().unwrap_or_default().replace("\r\n ", " ").replace("\r\n\t", " ");
        let mut headers = head.split("\r\n").filter_map(|line| line.split_once(':'));
        headers
            .find(|(header, _)| header.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    }

    /// The `Message-ID` without its angle brackets; empty where there is none.
    pub fn message_id(&self) -> String {
        self.header("Message-ID").unwrap_or_default().trim_matches(['<', '>']).to_owned()
    }
}

struct MemoryTransaction {
    shared: Arc<Shared>,
    clock: PausedClock,
    envelope: MailEnvelope,
}

fn check(state: &State, phase: MailPhase, class: MailErrorClass) -> Result<(), MailError> {
    if state.away.contains(&Part::Mail) {
        return Err(MailError { phase, class, code: 0, text: "the mail server is away".to_owned() });
    }
    Ok(())
}

#[async_trait]
impl Mail for Memory {
    async fn begin(&self, envelope: &MailEnvelope) -> Result<Box<dyn MailTransaction>, MailError> {
        self.ping().await?;
        let (shared, clock) = (Arc::clone(self.shared()), self.clock());
        Ok(Box::new(MemoryTransaction { shared, clock, envelope: envelope.clone() }))
    }

    async fn ping(&self) -> Result<(), MailError> {
        self.shared().pause().await;
        check(&self.shared().lock(), MailPhase::Connect, MailErrorClass::Unavailable)?;
        self.shared().pause().await;
        Ok(())
    }
}

#[async_trait]
impl MailTransaction for MemoryTransaction {
    async fn data(self: Box<Self>, message: Bytes) -> Result<MailReply, MailError> {
        self.shared.pause().await;
        let taken = {
            let mut state = self.shared.lock();
            // The connection ends after the mail was begun: whether it was taken is not to be told from here.
            check(&state, MailPhase::Message, MailErrorClass::Unknown)?;
            let id = state.mails.len() as u64 + 1;
            let taken = TakenMail { id, envelope: self.envelope.clone(), message, at: self.clock.now() };
            state.mails.push(taken.clone());
            taken
        };
        let (to, message_id) = (taken.envelope.to.as_str().to_owned(), taken.message_id());
        self.shared.record(Event::Mailed { to, message_id });
        self.shared.mailed.notify_waiters();
        self.shared.pause().await;
        Ok(MailReply { code: 250, text: format!("2.0.0 taken as {}", taken.id) })
    }
}
