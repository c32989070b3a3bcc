//! A change that cannot be published, as a dead letter. Written twice it is one row: a crash captures it once more.

use std::collections::BTreeMap;

use tidings_domain::{
    dead_letter::{DeadLetter, DeadLetterSource, reason},
    item::Change,
    ports::UnreadableChange,
    time::Timestamp,
    wire::Envelope,
};

/// Of a row that cannot be read as an item.
pub(crate) fn undecodable(unreadable: UnreadableChange, at: Timestamp) -> DeadLetter {
    let UnreadableChange { message_id, topic, bytes, detail } = unreadable;
    DeadLetter {
        id: DeadLetter::id_for(DeadLetterSource::Changes, reason::UNDECODABLE, &bytes),
        source: DeadLetterSource::Changes,
        topic,
        message_id: message_id.map(|id| id.uuid()),
        delivery: None,
        reason: reason::UNDECODABLE.to_owned(),
        detail,
        headers: BTreeMap::new(),
        body: bytes,
        attempts: 1,
        created_at: at,
        marked_at: None,
    }
}

/// Of a record that the bus refuses: redriven, the same record is published again.
pub(crate) fn rejected(
    change: &Change,
    record: Envelope,
    detail: String,
    attempts: u32,
    at: Timestamp,
) -> DeadLetter {
    let message = &change.item.message;
    let id = message.id.uuid();
    DeadLetter {
        id: DeadLetter::id_for(DeadLetterSource::Changes, reason::REJECTED, id.as_bytes()),
        source: DeadLetterSource::Changes,
        topic: Some(message.topic.clone()),
        message_id: Some(id),
        delivery: None,
        reason: reason::REJECTED.to_owned(),
        detail,
        headers: record.headers,
        body: record.body,
        attempts,
        created_at: at,
        marked_at: None,
    }
}
