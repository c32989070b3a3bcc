//! What crosses a broker: the first hop carries the posted text with headers beside it, the second a change record.

pub mod change;
pub mod message;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::topic::TopicName;

/// Header names, the same as AMQP headers and as SNS message attributes.
pub mod header {
    /// The message id, a UUID.
    pub const ID: &str = "id";
    /// The topic.
    pub const TOPIC: &str = "topic";
    /// The subject of its mails.
    pub const SUBJECT: &str = "subject";
    /// What the text is.
    pub const CONTENT_TYPE: &str = "content-type";
    /// When the api took it.
    pub const ACCEPTED_AT: &str = "accepted-at";
    /// W3C Trace Context.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C Trace Context.
    pub const TRACESTATE: &str = "tracestate";
    /// One JSON object of the sender's own (first hop).
    pub const ATTRIBUTES: &str = "attributes";
    /// The event name (second hop), always `INSERT`.
    pub const EVENT: &str = "event";
}

/// The most headers that we put beside a body on SNS and therefore everywhere.
pub const MAX_HEADERS: usize = 8;

/// A body with what describes it. Decoders ignore headers that they don't know.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Text headers; an adapter leaves out headers of other types.
    pub headers: BTreeMap<String, String>,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The publisher's own message id (AMQP `message_id`, SNS MessageId), on what was received.
    pub native_id: Option<String>,
    /// The topic that it was published to, where the bus says so, on what was received.
    pub published_to: Option<TopicName>,
}

/// Why something received cannot be taken: it is a dead letter at once.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Undecodable {
    /// One of [`crate::dead_letter::reason`].
    pub reason: &'static str,
    /// What is wrong, in a sentence.
    pub detail: String,
}

impl Undecodable {
    /// With the reason `undecodable`.
    pub fn new(detail: impl Into<String>) -> Self {
        Self { reason: crate::dead_letter::reason::UNDECODABLE, detail: detail.into() }
    }
}
