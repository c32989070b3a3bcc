//! Dead letters: every message, change, notification or delivery that cannot go on, with its reason.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{delivery::DeliveryKey, id::DeadLetterId, time::Timestamp, topic::TopicName};

/// Where it came from, and with that which service takes it up again when it is redriven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterSource {
    /// A message of the queue `items`: the subscriber's.
    Items,
    /// A change of the table stream: the cdc-watcher's.
    Changes,
    /// A notification of the queue `mail`: the mailer's.
    Mail,
    /// A delivery: the mailer's.
    Deliveries,
}

impl DeadLetterSource {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Items, Self::Changes, Self::Mail, Self::Deliveries];

    /// The word that records and HTTP carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Changes => "changes",
            Self::Mail => "mail",
            Self::Deliveries => "deliveries",
        }
    }

    /// Reads [`DeadLetterSource::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == text)
    }
}

/// The reasons that we write; other parties may meet others in later versions.
pub mod reason {
    /// The message cannot be decoded or breaks a rule of the wire.
    pub const UNDECODABLE: &str = "undecodable";
    /// Neither a header `id` that is a UUID nor a message id of the publisher's.
    pub const NO_ID: &str = "no_id";
    /// The same id with another body.
    pub const CONFLICT: &str = "conflict";
    /// The store refuses the row.
    pub const REJECTED: &str = "rejected";
    /// A few attempts failed.
    pub const ATTEMPTS_EXHAUSTED: &str = "attempts_exhausted";
    /// The handler panicked at every attempt.
    pub const PANIC: &str = "panic";
    /// The broker handed it out too often.
    pub const RETURNED_TOO_OFTEN: &str = "returned_too_often";
    /// The mail server refused the mail or the recipient for good.
    pub const REFUSED: &str = "refused";
    /// The outcome of a send is unknown and `ambiguous = hold`.
    pub const UNKNOWN_HELD: &str = "unknown_held";
    /// The item that a notification is about is not there.
    pub const ITEM_MISSING: &str = "item_missing";
}

/// One row of `dead_letters`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Its id. Made from what it is about where a repeat must not make a second row; see [`DeadLetter::id_for`].
    pub id: DeadLetterId,
    /// Where it came from.
    pub source: DeadLetterSource,
    /// Of which topic, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<TopicName>,
    /// The message that it is, or is about, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message_id: Option<Uuid>,
    /// The delivery, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<DeliveryKey>,
    /// Why, one of [`reason`].
    pub reason: String,
    /// Why, in a sentence, without addresses.
    pub detail: String,
    /// The headers that it came with.
    pub headers: BTreeMap<String, String>,
    /// The body that it came with, byte for byte.
    #[serde(with = "body")]
    pub body: Bytes,
    /// Attempts that were made.
    pub attempts: u32,
    /// When it was written.
    pub created_at: Timestamp,
    /// When someone marked it for redrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub marked_at: Option<Timestamp>,
}

impl DeadLetter {
    /// An id derived (UUIDv5) from the source and what makes the letter one and the same: written twice, it is one row.
    pub fn id_for(source: DeadLetterSource, reason: &str, what: &[u8]) -> DeadLetterId {
        let name = [source.as_str().as_bytes(), &[0], reason.as_bytes(), &[0], what].concat();
        DeadLetterId(Uuid::new_v5(&crate::id::FOREIGN_NAMESPACE, &name))
    }
}

/// Which dead letters are meant; what is absent does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeadLetterSelection {
    /// Of this source.
    pub source: Option<DeadLetterSource>,
    /// Of this topic.
    pub topic: Option<TopicName>,
    /// With this reason.
    pub reason: Option<String>,
    /// About this message.
    pub message_id: Option<Uuid>,
    /// These.
    pub ids: Option<Vec<DeadLetterId>>,
}

impl DeadLetterSelection {
    /// Whether `letter` is meant.
    pub fn includes(&self, letter: &DeadLetter) -> bool {
        self.source.is_none_or(|source| source == letter.source)
            && self.topic.as_ref().is_none_or(|topic| Some(topic) == letter.topic.as_ref())
            && self.reason.as_ref().is_none_or(|reason| *reason == letter.reason)
            && self.message_id.is_none_or(|id| Some(id) == letter.message_id)
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&letter.id))
    }
}

/// Bodies are text where they can be, else `{"base64": "..."}` would be; in JSON we show text with replacement.
mod body {
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(body: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(body))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        Ok(Bytes::from(String::deserialize(deserializer)?.into_bytes()))
    }
}
