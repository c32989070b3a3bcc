//! From a row of the stream to an item, by the names of its columns.

use bytes::Bytes;
use serde_json::Value as Json;
use tidings_domain::{
    attributes::Attributes,
    id::MessageId,
    item::Item,
    message::{MAX_CONTENT_TYPE_BYTES, Message},
    ports::UnreadableChange,
    text::{Subject, Text, is_carried},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};

use super::{
    instant,
    pgoutput::{Relation, Tuple, Value},
};

/// The columns of an item.
const NAMES: [&str; 10] = [
    "id",
    "topic",
    "message",
    "subject",
    "content_type",
    "attributes",
    "accepted_at",
    "stored_at",
    "traceparent",
    "tracestate",
];

const ID: usize = 0;
const TOPIC: usize = 1;
const MESSAGE: usize = 2;
const SUBJECT: usize = 3;
const CONTENT_TYPE: usize = 4;
const ATTRIBUTES: usize = 5;
const ACCEPTED_AT: usize = 6;
const STORED_AT: usize = 7;
const TRACEPARENT: usize = 8;
const TRACESTATE: usize = 9;

/// The longest value that a dead letter keeps whole; of a longer one its beginning. No row that the table's checks let
/// through has one.
const LONGEST_KEPT: usize = 1024 * 1024;

/// How the table's columns stand, from the last description that the stream gave.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    names: Vec<String>,
    /// Which of an item's columns each is.
    meaning: Vec<Option<usize>>,
    /// The last row's: the next one is mostly of the same.
    topic: Option<TopicName>,
}

impl Layout {
    /// Of a description.
    pub(crate) fn of(relation: &Relation<'_>) -> Self {
        let names: Vec<_> =
            relation.columns.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        let meaning = names.iter().map(|name| NAMES.iter().position(|known| known == name)).collect();
        Self { names, meaning, topic: None }
    }

    /// The item that `row` is, and its size in bytes.
    pub(crate) fn read(&mut self, row: Tuple<'_>) -> Result<(Item, u64), Box<UnreadableChange>> {
        let mut values = [Value::Unchanged; NAMES.len()];
        let mut size = 0;
        for (value, meaning) in row.values().zip(&self.meaning) {
            if let Value::Text(bytes) | Value::Binary(bytes) = value {
                size += bytes.len() as u64;
            }
            if let Some(column) = meaning {
                values[*column] = value;
            }
        }
        let columns = Columns { values, last_topic: self.topic.as_ref() };
        match columns.item() {
            Ok(item) => {
                if self.topic.as_ref() != Some(&item.message.topic) {
                    self.topic = Some(item.message.topic.clone());
                }
                Ok((item, size))
            }
            Err(detail) => Err(Box::new(UnreadableChange {
                message_id: columns.id().ok(),
                topic: columns.topic().ok(),
                bytes: self.raw(row),
                detail,
            })),
        }
    }

    /// A row that is no item, for its dead letter: its columns as JSON; what is no text as `\x` and its bytes in hex, as
    /// the server writes bytes. The same row gives the same bytes each time that it comes.
    fn raw(&self, row: Tuple<'_>) -> Bytes {
        let kept = |bytes: &[u8]| {
            let cut = &bytes[..bytes.len().min(LONGEST_KEPT)];
            match std::str::from_utf8(cut) {
                Ok(text) => text.to_owned(),
                // Cut within a character.
                Err(error) if cut.len() < bytes.len() && error.error_len().is_none() => {
                    String::from_utf8_lossy(&cut[..error.valid_up_to()]).into_owned()
                }
                Err(_) => hex(cut),
            }
        };
        let columns = row.values().zip(&self.names).filter_map(|(value, name)| {
            let value = match value {
                Value::Null => Json::Null,
                Value::Unchanged => return None,
                Value::Text(bytes) => Json::String(kept(bytes)),
                Value::Binary(bytes) => Json::String(hex(&bytes[..bytes.len().min(LONGEST_KEPT)])),
            };
            Some((name.clone(), value))
        });
        let object: serde_json::Map<_, _> = columns.collect();
        Bytes::from(Json::Object(object).to_string())
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::from("\\x"), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes every text");
        text
    })
}

/// Values by what they mean; one that is not there is as if it had not been sent.
struct Columns<'a> {
    values: [Value<'a>; NAMES.len()],
    last_topic: Option<&'a TopicName>,
}

impl<'a> Columns<'a> {
    fn bytes(&self, column: usize) -> Result<Option<&'a [u8]>, String> {
        match self.values[column] {
            Value::Text(bytes) => Ok(Some(bytes)),
            Value::Null => Ok(None),
            Value::Unchanged => Err(format!("{} is absent", NAMES[column])),
            Value::Binary(_) => Err(format!("{} is not a text", NAMES[column])),
        }
    }

    fn text(&self, column: usize) -> Result<Option<&'a str>, String> {
        let text = self.bytes(column)?.map(std::str::from_utf8).transpose();
        text.map_err(|_| format!("{}: the text is not UTF-8", NAMES[column]))
    }

    fn needed(&self, column: usize) -> Result<&'a str, String> {
        self.text(column)?.ok_or_else(|| format!("{} is NULL", NAMES[column]))
    }

    /// A column that may be missing altogether.
    fn optional(&self, column: usize) -> Result<Option<&'a str>, String> {
        match self.values[column] {
            Value::Unchanged => Ok(None),
            _ => self.text(column),
        }
    }

    fn id(&self) -> Result<MessageId, String> {
        MessageId::parse(self.needed(ID)?).ok_or_else(|| "id: not a UUID".to_owned())
    }

    fn topic(&self) -> Result<TopicName, String> {
        let name = self.needed(TOPIC)?;
        if let Some(last) = self.last_topic.filter(|last| last.as_str() == name) {
            return Ok(last.clone());
        }
        TopicName::parse(name).map_err(|error| format!("topic: {error}"))
    }

    fn time(&self, column: usize) -> Result<Timestamp, String> {
        let text = self.needed(column)?;
        instant::parse(text)
            .ok_or_else(|| format!("{}: not a time between the years 1970 and 9999", NAMES[column]))
    }

    fn content_type(&self) -> Result<String, String> {
        match self.needed(CONTENT_TYPE)? {
            text if text.len() <= MAX_CONTENT_TYPE_BYTES && is_carried(text) => Ok(text.to_owned()),
            _ => Err(format!(
                "content_type: at most {MAX_CONTENT_TYPE_BYTES} bytes without control characters are carried"
            )),
        }
    }

    fn item(&self) -> Result<Item, String> {
        let text = self.bytes(MESSAGE)?.ok_or("message is NULL")?;
        let subject = self.text(SUBJECT)?.map(Subject::parse).transpose();
        let message = Message {
            id: self.id()?,
            topic: self.topic()?,
            text: Text::from_bytes(text).map_err(|error| format!("message: {error}"))?,
            subject: subject.map_err(|error| format!("subject: {error}"))?,
            content_type: self.content_type()?,
            attributes: match self.needed(ATTRIBUTES)? {
                "{}" => Attributes::default(),
                text => Attributes::from_json_text(text).map_err(|error| format!("attributes: {error}"))?,
            },
            accepted_at: self.time(ACCEPTED_AT)?,
            trace: TraceContext::parse(self.optional(TRACEPARENT)?, self.optional(TRACESTATE)?),
        };
        message.check_size().map_err(|error| format!("message: {error}"))?;
        Ok(Item { message, stored_at: self.time(STORED_AT)? })
    }
}

#[cfg(test)]
mod tests;
