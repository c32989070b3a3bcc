//! The second hop: the JSON of `proto/tidings/v1/change.proto`, written and read by plain serde structs.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, error::Category};

use super::{Envelope, Undecodable, header};
use crate::{
    attributes::Attributes,
    id::MessageId,
    item::{Change, Item},
    message::{Message, TEXT_PLAIN},
    notification::Notification,
    text::{Subject, Text},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};

/// The only event name.
pub const INSERT: &str = "INSERT";

/// The record as JSON has it: the proto3 JSON mapping of `tidings.v1.Change`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ChangeRecord {
    #[serde(skip_serializing_if = "String::is_empty")]
    /// See the proto.
    pub event_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    /// Always [`INSERT`].
    pub event_name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    /// See the proto.
    pub sequence_number: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The key of the row.
    pub keys: Option<KeysRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The new row.
    pub new_image: Option<ItemRecord>,
    #[serde(skip_serializing_if = "is_zero")]
    /// Bytes of the row as the stream counts them.
    pub size_bytes: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// When the watcher read the change.
    pub captured_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// When the watcher published it.
    pub published_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "is_zero")]
    /// 0; a replay to all is a new round.
    pub round: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    /// Which replay published it.
    pub replay: String,
}

/// `tidings.v1.Keys`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KeysRecord {
    /// The item's id.
    pub id: String,
}

/// `tidings.v1.Item`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ItemRecord {
    #[serde(skip_serializing_if = "String::is_empty")]
    /// The item's id.
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    /// Its topic.
    pub topic: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// Its text, where the record fits with it.
    pub message: Option<String>,
    #[serde(skip_serializing_if = "is_zero")]
    /// The size of its text.
    pub message_bytes: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    /// Its subject.
    pub subject: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    /// What the text is.
    pub content_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// The sender's own attributes.
    pub attributes: Option<Map<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// When the message was accepted.
    pub accepted_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    /// When its row was written.
    pub stored_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "String::is_empty")]
    /// The trace of its row.
    pub traceparent: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    /// The trace of its row.
    pub tracestate: String,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Which publish of a change this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// When.
    pub at: Timestamp,
    /// 0; a replay to all is a new round.
    pub round: u32,
    /// Which replay; absent in a first publish.
    pub replay: Option<String>,
    /// The trace context to carry: of the publish span.
    pub trace: TraceContext,
}

/// Writes `change`. Where body and headers would take more than `max_bytes`, the message is left out and its size told.
pub fn encode(change: &Change, publish: &Publish, max_bytes: usize) -> Envelope {
    let message = &change.item.message;
    let some = |text: &Option<String>| text.clone().unwrap_or_default();
    let attributes = (!message.attributes.is_empty()).then(|| match message.attributes.to_json() {
        Value::Object(object) => object,
        _ => Map::new(),
    });
    let mut record = ChangeRecord {
        event_id: change.event_id.clone(),
        event_name: INSERT.to_owned(),
        sequence_number: change.sequence_number.clone(),
        keys: Some(KeysRecord { id: message.id.to_string() }),
        new_image: Some(ItemRecord {
            id: message.id.to_string(),
            topic: message.topic.to_string(),
            message: Some(message.text.as_str().to_owned()),
            message_bytes: u32::try_from(message.text.as_str().len()).unwrap_or(u32::MAX),
            subject: message.subject.as_ref().map(|s| s.as_str().to_owned()).unwrap_or_default(),
            content_type: message.content_type.clone(),
            attributes,
            accepted_at: Some(message.accepted_at),
            stored_at: Some(change.item.stored_at),
            traceparent: some(&message.trace.traceparent),
            tracestate: some(&message.trace.tracestate),
        }),
        size_bytes: u32::try_from(change.size_bytes).unwrap_or(u32::MAX),
        captured_at: Some(change.captured_at),
        published_at: Some(publish.at),
        round: publish.round,
        replay: some(&publish.replay),
    };
    let write =
        |record: &ChangeRecord| serde_json::to_vec(record).expect("a record of texts and numbers is JSON");
    let headers = headers(change, publish);
    let beside: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let mut body = write(&record);
    if body.len() + beside > max_bytes {
        if let Some(image) = &mut record.new_image {
            image.message = None;
        }
        body = write(&record);
    }
    Envelope { headers, body: Bytes::from(body), native_id: None, published_to: None }
}

/// `id`, `topic`, `event`, `traceparent`, and the sender's own attributes as far as eight go, so that others can filter.
fn headers(change: &Change, publish: &Publish) -> std::collections::BTreeMap<String, String> {
    let message = &change.item.message;
    let mut headers = std::collections::BTreeMap::from([
        (header::ID.to_owned(), message.id.to_string()),
        (header::TOPIC.to_owned(), message.topic.to_string()),
        (header::EVENT.to_owned(), INSERT.to_owned()),
    ]);
    if let Some(traceparent) = &publish.trace.traceparent {
        headers.insert(header::TRACEPARENT.to_owned(), traceparent.clone());
    }
    if let Some(tracestate) = &publish.trace.tracestate {
        headers.insert(header::TRACESTATE.to_owned(), tracestate.clone());
    }
    for (name, value) in message.attributes.iter() {
        if headers.len() >= super::MAX_HEADERS {
            break;
        }
        let reserved = [header::ID, header::TOPIC, header::EVENT, header::TRACEPARENT, header::TRACESTATE];
        if reserved.contains(&name) || !is_attribute_name(name) {
            continue;
        }
        let text = match value {
            Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        if !text.is_empty() {
            headers.insert(name.to_owned(), text);
        }
    }
    headers
}

/// What SNS takes as an attribute name: letters, digits, `_`, `-`, `.`, not at the ends, not `AWS.` or `Amazon.`.
fn is_attribute_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let lower = name.to_ascii_lowercase();
    (1..=255).contains(&name.len())
        && name.bytes().all(allowed)
        && !name.starts_with('.')
        && !name.ends_with('.')
        && !name.contains("..")
        && !lower.starts_with("aws.")
        && !lower.starts_with("amazon.")
}

/// A record as it was read: the notification, and its message unless that was left out.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// What to expand.
    pub notification: Notification,
    /// The item; none where the message was left out: read it by id.
    pub item: Option<Item>,
    /// The trace context that the publish carried.
    pub trace: TraceContext,
}

/// Reads a record that anyone wrote. Times that are absent are `now`.
pub fn decode(envelope: &Envelope, now: Timestamp) -> Result<Decoded, Undecodable> {
    let record: ChangeRecord =
        serde_json::from_slice(&envelope.body).map_err(|error| Undecodable::new(no_record(&error)))?;
    if record.event_name != INSERT {
        return Err(Undecodable::new("the record's eventName is not INSERT"));
    }
    let image = record.new_image.ok_or_else(|| Undecodable::new("the record has no newImage"))?;
    let id = MessageId::parse(&image.id).ok_or_else(|| Undecodable::new("newImage.id is no UUID"))?;
    let topic = TopicName::parse(&image.topic)
        .map_err(|error| Undecodable::new(format!("newImage.topic: {error}")))?;
    let notification = Notification {
        item: id,
        round: record.round,
        topic: topic.clone(),
        replay: (!record.replay.is_empty()).then_some(record.replay),
        captured_at: record.captured_at.unwrap_or(now),
        published_at: record.published_at.unwrap_or(now),
    };
    let get = |name: &str| envelope.headers.get(name).map(String::as_str);
    let trace = TraceContext::parse(get(header::TRACEPARENT), get(header::TRACESTATE));
    let Some(text) = image.message else {
        return Ok(Decoded { notification, item: None, trace });
    };
    let bad =
        |what: &str, error: &dyn std::fmt::Display| Undecodable::new(format!("newImage.{what}: {error}"));
    let subject = match image.subject.as_str() {
        "" => None,
        subject => Some(Subject::parse(subject).map_err(|error| bad("subject", &error))?),
    };
    let message = Message {
        id,
        topic,
        text: Text::parse(&text).map_err(|error| bad("message", &error))?,
        subject,
        content_type: if image.content_type.is_empty() { TEXT_PLAIN.to_owned() } else { image.content_type },
        attributes: Attributes::from_json(Value::Object(image.attributes.unwrap_or_default()))
            .map_err(|error| bad("attributes", &error))?,
        accepted_at: image.accepted_at.unwrap_or(now),
        trace: TraceContext::parse(Some(&image.traceparent), Some(&image.tracestate)),
    };
    let item = Item { message, stored_at: image.stored_at.unwrap_or(now) };
    Ok(Decoded { notification, item: Some(item), trace })
}

/// What is wrong with a body, without any of it: this goes to the log, and serde's own words quote what they stumble on.
fn no_record(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        Category::Data => "JSON of another shape",
        Category::Eof => "JSON that ends early",
        Category::Syntax | Category::Io => "no JSON",
    };
    format!("the body is no change record but {what}, at line {} column {}", error.line(), error.column())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_body_quotes_nothing_of_it() {
        for body in [r#""hush""#, r#"{"newImage": "hush"}"#, r#"{"eventName": "hush"}"#, r#"{"hush"#, "hush"]
        {
            let envelope = Envelope { body: Bytes::from(body), ..Envelope::default() };
            let detail = decode(&envelope, Timestamp::default()).unwrap_err().detail;
            assert!(!detail.contains("hush"), "{detail}");
        }
    }
}
