//! An item: a message's stored row, inserted once and never updated.

use serde::{Deserialize, Serialize};

use crate::{message::Message, time::Timestamp};

/// One row of `items`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The message.
    #[serde(flatten)]
    pub message: Message,
    /// When the row was written.
    pub stored_at: Timestamp,
}

/// A new item as the table stream shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// For other parties' deduplication; we never decide on it. Slot: system id, timeline, commit LSN, ordinal;
    /// DynamoDB: the stream's own eventID; SQLite: the change number.
    pub event_id: String,
    /// Where it stands in its stream, as the stream writes it.
    pub sequence_number: String,
    /// The new row.
    pub item: Item,
    /// Bytes of the row as the stream counts them.
    pub size_bytes: u64,
    /// When we read it from the stream.
    pub captured_at: Timestamp,
}
