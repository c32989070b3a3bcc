//! A received message as a dead letter, and a dead letter as what was received.

use tidings_domain::{
    dead_letter::{DeadLetter, DeadLetterSource},
    id::{DeadLetterId, MessageId},
    ports::{Clock, Entropy, Lease, Received},
    topic::TopicName,
    wire::{Envelope, header},
};
use uuid::Uuid;

use crate::handler::Reject;

/// Headers that differ from one publish of a message to the next; a letter's id does not depend on them.
const PASSING: [&str; 3] = [header::TRACEPARENT, header::TRACESTATE, header::ACCEPTED_AT];

/// The letter of `received`, which cannot go on. Written twice for the same message it is one row, so that a repeat
/// after a crash changes nothing; what has no id of any kind is a row each time.
pub fn of_received(
    source: DeadLetterSource,
    received: &Received,
    reject: &Reject,
    attempts: u32,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> DeadLetter {
    let envelope = &received.envelope;
    let topic = reject.topic.clone().or_else(|| topic_of(envelope));
    let message_id = reject.message_id.or_else(|| message_id_of(source, envelope, topic.as_ref()));
    let mut headers = envelope.headers.clone();
    if let Some(id) = message_id {
        // A foreign id is derived once; redriven, the message keeps it.
        headers.insert(header::ID.to_owned(), id.to_string());
    }
    let id = match (message_id, &envelope.native_id) {
        (None, None) => DeadLetterId::new(clock, entropy),
        _ => DeadLetter::id_for(source, reject.reason, &identity(envelope, message_id)),
    };
    DeadLetter {
        id,
        source,
        topic,
        message_id,
        delivery: None,
        reason: reject.reason.to_owned(),
        detail: reject.detail.clone(),
        headers,
        body: envelope.body.clone(),
        attempts,
        created_at: clock.now(),
        marked_at: None,
    }
}

/// What `letter` was when it came: an envelope of its headers and body, under no lease.
pub fn received(letter: &DeadLetter) -> Received {
    let envelope = Envelope {
        headers: letter.headers.clone(),
        body: letter.body.clone(),
        native_id: letter.message_id.map(|id| id.to_string()),
        published_to: letter.topic.clone(),
    };
    Received { envelope, returns: 0, lease: Lease { epoch: 0, tag: 0 } }
}

/// What makes a letter one and the same: ids, headers that say something of the message, and the body.
fn identity(envelope: &Envelope, message_id: Option<Uuid>) -> Vec<u8> {
    let mut what = Vec::with_capacity(envelope.body.len() + 128);
    let mut put = |bytes: &[u8]| {
        what.extend_from_slice(bytes);
        what.push(0);
    };
    put(message_id.as_ref().map_or(&[], |id| id.as_bytes()));
    put(envelope.native_id.as_deref().unwrap_or_default().as_bytes());
    for (name, value) in &envelope.headers {
        if !PASSING.contains(&name.as_str()) && name != header::ID {
            put(name.as_bytes());
            put(value.as_bytes());
        }
    }
    put(&envelope.body);
    what
}

fn topic_of(envelope: &Envelope) -> Option<TopicName> {
    let named = envelope.headers.get(header::TOPIC).and_then(|name| TopicName::parse(name).ok());
    named.or_else(|| envelope.published_to.clone())
}

/// The id that the message has or would be given: as [`tidings_domain::wire::message::decode`] decides it.
fn message_id_of(source: DeadLetterSource, envelope: &Envelope, topic: Option<&TopicName>) -> Option<Uuid> {
    if let Some(id) = envelope.headers.get(header::ID).and_then(|id| Uuid::parse_str(id).ok()) {
        return Some(id);
    }
    let native = envelope.native_id.as_deref().filter(|id| !id.is_empty())?;
    match source {
        DeadLetterSource::Items => topic.map(|topic| MessageId::foreign(topic, native).uuid()),
        // A notification's id is its item's: nobody derives one from a publish.
        DeadLetterSource::Changes | DeadLetterSource::Mail | DeadLetterSource::Deliveries => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use tidings_domain::{dead_letter::reason, time::Timestamp, wire};

    use super::*;

    struct Fixed;

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            Timestamp::from_millis(1)
        }
    }

    impl Entropy for Fixed {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(7);
        }
    }

    fn came(headers: &[(&str, &str)], body: &'static str, native_id: Option<&str>) -> Received {
        let headers: BTreeMap<_, _> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let envelope = Envelope {
            headers,
            body: Bytes::from_static(body.as_bytes()),
            native_id: native_id.map(str::to_owned),
            published_to: Some(TopicName::messages()),
        };
        Received { envelope, returns: 3, lease: Lease { epoch: 1, tag: 1 } }
    }

    fn letter(received: &Received) -> DeadLetter {
        let detail = "said something else".to_owned();
        let reject = Reject { reason: reason::CONFLICT, detail, message_id: None, topic: None };
        of_received(DeadLetterSource::Items, received, &reject, 0, &Fixed, &Fixed)
    }

    #[test]
    fn the_same_message_is_one_letter_whenever_it_was_accepted() {
        let id = "0190a000-0000-7000-8000-000000000001";
        let first = letter(&came(&[("id", id), ("accepted-at", "2026-01-01T00:00:00Z")], "b", None));
        let again = letter(&came(&[("id", id), ("accepted-at", "2026-01-02T00:00:00Z")], "b", None));
        assert_eq!(first.id, again.id);
        assert_ne!(first.id, letter(&came(&[("id", id)], "c", None)).id);
        assert_ne!(first.id, letter(&came(&[("id", id), ("subject", "s")], "b", None)).id);
    }

    #[test]
    fn a_foreign_message_keeps_its_derived_id_when_it_is_redriven() {
        let came = came(&[], "b", Some("abc"));
        let first = wire::message::decode(&came.envelope, Timestamp::default()).unwrap();
        let again = received(&letter(&came));
        assert_eq!(wire::message::decode(&again.envelope, Timestamp::default()).unwrap().id, first.id);
    }
}
