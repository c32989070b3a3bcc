//! A message: what was posted, with all that describes it.

use serde::{Deserialize, Serialize};

use crate::{
    attributes::Attributes,
    id::MessageId,
    text::{InvalidText, MAX_MESSAGE_BYTES, Subject, Text},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};

/// The content type of a posted text that named none.
pub const TEXT_PLAIN: &str = "text/plain; charset=utf-8";

/// The longest content type that is carried, in bytes.
pub const MAX_CONTENT_TYPE_BYTES: usize = 255;

/// What was posted. Its text is byte for byte the publisher's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// One id for ever.
    pub id: MessageId,
    /// Where it was published.
    pub topic: TopicName,
    /// The text.
    #[serde(rename = "message")]
    pub text: Text,
    /// The subject of its mails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// What the text is.
    pub content_type: String,
    /// The sender's own attributes.
    #[serde(skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
    /// When the api took it (for another publisher's message: when the subscriber did).
    pub accepted_at: Timestamp,
    /// The trace that it belongs to.
    #[serde(flatten)]
    pub trace: TraceContext,
}

impl Message {
    /// Bytes of text, subject and attributes (as JSON) together: what [`MAX_MESSAGE_BYTES`] bounds.
    pub fn size_bytes(&self) -> usize {
        let subject = self.subject.as_ref().map_or(0, |subject| subject.as_str().len());
        let attributes = if self.attributes.is_empty() { 0 } else { self.attributes.to_json_text().len() };
        self.text.as_str().len() + subject + attributes
    }

    /// Holds the message to [`MAX_MESSAGE_BYTES`].
    pub fn check_size(&self) -> Result<(), InvalidText> {
        match self.size_bytes() {
            bytes if bytes > MAX_MESSAGE_BYTES => Err(InvalidText::TooLarge { bytes }),
            _ => Ok(()),
        }
    }

    /// Whether `other` says the same: topic, subject, type, text and attributes; never time or trace.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        self.topic == other.topic
            && self.subject == other.subject
            && self.content_type == other.content_type
            && self.text == other.text
            && self.attributes == other.attributes
    }
}
