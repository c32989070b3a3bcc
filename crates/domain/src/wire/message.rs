//! The first hop: a message as an envelope, and an envelope of any publisher as a message.

use bytes::Bytes;
use uuid::Uuid;

use super::{Envelope, Undecodable, header};
use crate::{
    attributes::Attributes,
    dead_letter::reason,
    id::MessageId,
    message::{MAX_CONTENT_TYPE_BYTES, Message, TEXT_PLAIN},
    text::{Subject, Text, is_carried},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};

/// Writes `message`: the body is its text, everything else is a header.
pub fn encode(message: &Message) -> Envelope {
    let mut envelope =
        Envelope { body: Bytes::copy_from_slice(message.text.as_str().as_bytes()), ..Envelope::default() };
    let mut put = |name: &str, value: String| {
        envelope.headers.insert(name.to_owned(), value);
    };
    put(header::ID, message.id.to_string());
    put(header::TOPIC, message.topic.to_string());
    put(header::CONTENT_TYPE, message.content_type.clone());
    put(header::ACCEPTED_AT, message.accepted_at.to_string());
    if let Some(subject) = &message.subject {
        put(header::SUBJECT, subject.as_str().to_owned());
    }
    if !message.attributes.is_empty() {
        put(header::ATTRIBUTES, message.attributes.to_json_text());
    }
    if let Some(traceparent) = &message.trace.traceparent {
        put(header::TRACEPARENT, traceparent.clone());
    }
    if let Some(tracestate) = &message.trace.tracestate {
        put(header::TRACESTATE, tracestate.clone());
    }
    envelope
}

/// Reads an envelope of any publisher: topic from the header, else from where it was published; id from the header,
/// else derived from the publisher's own. `now` is `accepted_at` where no valid one came.
pub fn decode(envelope: &Envelope, now: Timestamp) -> Result<Message, Undecodable> {
    let get = |name: &str| envelope.headers.get(name).map(String::as_str);
    let topic = match get(header::TOPIC) {
        Some(name) => {
            TopicName::parse(name).map_err(|error| Undecodable::new(format!("header topic: {error}")))?
        }
        None => envelope.published_to.clone().ok_or_else(|| {
            Undecodable::new("neither a header topic nor a known exchange says which topic this is")
        })?,
    };
    let id = match (get(header::ID).and_then(|id| Uuid::parse_str(id).ok()), &envelope.native_id) {
        (Some(id), _) => MessageId(id),
        (None, Some(native)) if !native.is_empty() => MessageId::foreign(&topic, native),
        _ => {
            let detail = "neither a header id that is a UUID nor a message id: set one of them".to_owned();
            return Err(Undecodable { reason: reason::NO_ID, detail });
        }
    };
    let subject = get(header::SUBJECT)
        .filter(|subject| !subject.is_empty())
        .map(Subject::parse)
        .transpose()
        .map_err(|error| Undecodable::new(format!("header subject: {error}")))?;
    let attributes = Attributes::from_json_text(get(header::ATTRIBUTES).unwrap_or_default())
        .map_err(|error| Undecodable::new(format!("header attributes: {error}")))?;
    let content_type = get(header::CONTENT_TYPE)
        .filter(|text| !text.is_empty() && text.len() <= MAX_CONTENT_TYPE_BYTES && is_carried(text))
        .unwrap_or(TEXT_PLAIN);
    let text = Text::from_bytes(&envelope.body).map_err(|error| Undecodable::new(error.to_string()))?;
    let message = Message {
        id,
        topic,
        text,
        subject,
        content_type: content_type.to_owned(),
        attributes,
        accepted_at: get(header::ACCEPTED_AT).and_then(Timestamp::parse).unwrap_or(now),
        trace: TraceContext::parse(get(header::TRACEPARENT), get(header::TRACESTATE)),
    };
    message.check_size().map_err(|error| Undecodable::new(error.to_string()))?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message() -> Message {
        Message {
            id: MessageId(Uuid::from_u128(5)),
            topic: TopicName::messages(),
            text: Text::parse("hello ]]> 🎉\n").unwrap(),
            subject: Some(Subject::parse("Hi").unwrap()),
            content_type: "application/json".into(),
            attributes: Attributes::from_json(json!({"n": 1.5, "s": ["a", true]})).unwrap(),
            accepted_at: Timestamp::from_millis(1_700_000_000_123),
            trace: TraceContext::parse(
                Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                Some("a=b"),
            ),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let envelope = encode(&message());
        assert!(envelope.headers.len() <= super::super::MAX_HEADERS);
        assert_eq!(decode(&envelope, Timestamp::MAX), Ok(message()));
    }

    #[test]
    fn a_message_of_another_publisher_is_taken() {
        let mut envelope = Envelope {
            body: Bytes::from_static(b"x"),
            native_id: Some("m-1".into()),
            published_to: Some(TopicName::messages()),
            ..Envelope::default()
        };
        envelope.headers.insert("unknown".into(), "y".into());
        let now = Timestamp::from_millis(9);
        let message = decode(&envelope, now).unwrap();
        assert_eq!(message.id, MessageId::foreign(&TopicName::messages(), "m-1"));
        assert_eq!(message.accepted_at, now);
        envelope.native_id = None;
        assert_eq!(decode(&envelope, now).unwrap_err().reason, reason::NO_ID);
        envelope.body = Bytes::from_static(b"\0");
        envelope.native_id = Some("m-1".into());
        assert_eq!(decode(&envelope, now).unwrap_err().reason, reason::UNDECODABLE);
    }
}
