use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    page::{Page, PageRequest},
    time::Timestamp,
};

/// A caught mail without its source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaughtMailSummary {
    /// Its number, counting up.
    pub id: u64,
    /// MAIL FROM.
    pub from: String,
    /// RCPT TO.
    pub to: String,
    /// The decoded subject.
    pub subject: String,
    /// When it was caught.
    pub received_at: Timestamp,
    /// Bytes of its source.
    pub size_bytes: u64,
}

/// A caught mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaughtMail {
    /// Without its source.
    pub summary: CaughtMailSummary,
    /// Its source, byte for byte.
    pub source: Bytes,
}

/// Which mails are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailboxQuery {
    /// To exactly this address.
    pub to: Option<String>,
    /// With this text in the subject or in the decoded text.
    pub contains: Option<String>,
    /// Which page.
    pub page: PageRequest,
}

/// The built-in mail catcher's reading side. It keeps the newest 10,000 mails.
#[async_trait]
pub trait Mailbox: Send + Sync {
    /// A page, newest first.
    async fn list(&self, query: &MailboxQuery) -> Result<Page<CaughtMailSummary>>;

    /// One mail.
    async fn get(&self, id: u64) -> Result<Option<CaughtMail>>;

    /// How many mails were dropped to keep the newest.
    async fn dropped(&self) -> Result<u64>;

    /// Returns when a mail was caught after this call began, or after `wait`.
    async fn changed(&self, wait: Duration);
}
