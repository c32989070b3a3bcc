use async_trait::async_trait;
use bytes::Bytes;

use crate::{address::EmailAddress, delivery::Answer, time::Timestamp};

/// The SMTP envelope of one mail: one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailEnvelope {
    /// MAIL FROM.
    pub from: EmailAddress,
    /// RCPT TO.
    pub to: EmailAddress,
}

/// Which command was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MailPhase {
    /// The connection.
    Connect,
    /// The server's greeting.
    Greeting,
    /// EHLO.
    Ehlo,
    /// STARTTLS.
    StartTls,
    /// The handshake, after STARTTLS or at once.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    MailFrom,
    /// RCPT TO.
    RcptTo,
    /// DATA, before its 354.
    Data,
    /// The mail itself, up to the reply after the final dot.
    Message,
}

impl MailPhase {
    /// The word that records and HTTP carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "starttls",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::MailFrom => "mail",
            Self::RcptTo => "rcpt",
            Self::Data => "data",
            Self::Message => "message",
        }
    }
}

/// What a failure means for the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MailErrorClass {
    /// 4xx to this mail or recipient: an attempt is used, later another.
    Transient,
    /// 5xx to this mail: given up.
    Permanent,
    /// 5xx to this recipient (RCPT TO): given up, and it says something of the address.
    Recipient,
    /// The server refuses us (AUTH, MAIL FROM of ours): an outage, no attempt is used, people are told.
    Login,
    /// Nothing could be tried (connection, greeting, EHLO, TLS, 421): an outage, no attempt is used.
    Unavailable,
    /// The connection ended or the time ran out after the mail was begun and before its reply.
    Unknown,
}

/// A failed step.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mail server, {}: {} {}", phase.as_str(), code, text)]
pub struct MailError {
    /// Which command.
    pub phase: MailPhase,
    /// What it means.
    pub class: MailErrorClass,
    /// The reply code, 0 where none came.
    pub code: u16,
    /// The reply, or what went wrong; addresses are the caller's to cut.
    pub text: String,
}

/// The reply that took the mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailReply {
    /// The code, 2xx.
    pub code: u16,
    /// Its text, often the server's queue id.
    pub text: String,
}

impl MailError {
    /// The answer to keep with the delivery.
    pub fn answer(&self, at: Timestamp) -> Answer {
        Answer { at, phase: self.phase.as_str().to_owned(), code: self.code, text: self.text.clone() }
    }
}

impl MailReply {
    /// The answer to keep with the delivery.
    pub fn answer(&self, at: Timestamp) -> Answer {
        Answer { at, phase: MailPhase::Message.as_str().to_owned(), code: self.code, text: self.text.clone() }
    }
}

/// Sending mail.
#[async_trait]
pub trait Mail: Send + Sync {
    /// Begins a mail transaction (RFC 5321, 3.3): connected, MAIL and RCPT accepted, DATA not sent. Waits for a free
    /// session where the adapter bounds them. Every phase has a deadline. Never answers *unknown*: nothing was sent.
    async fn begin(&self, envelope: &MailEnvelope) -> Result<Box<dyn MailTransaction>, MailError>;

    /// Begins a session and drops it: the probe of an outage.
    async fn ping(&self) -> Result<(), MailError>;
}

/// The seam before DATA, where `sending` is recorded and the subscription is looked at. Dropped, it sent nothing.
#[async_trait]
pub trait MailTransaction: Send {
    /// Sends the mail: `message` has CRLF line ends; dots are stuffed here. Ok is the server's 2xx after the final dot.
    /// A dropped call is *unknown*.
    async fn data(self: Box<Self>, message: Bytes) -> Result<MailReply, MailError>;
}
