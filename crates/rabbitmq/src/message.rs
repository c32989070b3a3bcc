//! An envelope as an AMQP message, and an AMQP message of any publisher as an envelope.

use std::collections::BTreeMap;

use bytes::Bytes;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};
use tidings_domain::{
    Error, Result,
    wire::{Envelope, header},
};

use crate::names::Names;

/// Bytes of body and headers: twice what a change record of the largest message takes when every byte of it is escaped once,
/// and far below the 16 MiB that RabbitMQ 4 takes unless told otherwise (3.x: 128 MiB).
pub(crate) const MAX_PUBLISH_BYTES: usize = 2 * 1024 * 1024;

/// The longest short string of AMQP, which a header's name and a property are.
const MAX_SHORT_BYTES: usize = 255;

/// Survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// What the broker adds to the headers of a message that it has handed out before or moved to a safety net.
const HEADROOM: usize = 4096;

/// A frame around its payload, and what precedes the properties in a content header.
const HEADER_FRAME_BYTES: usize = 8 + 14;

/// What the broker counts and names of a message's way.
const DELIVERY_COUNT: &str = "x-delivery-count";
const FIRST_DEATH_EXCHANGE: &str = "x-first-death-exchange";

/// A message on its way out.
pub(crate) struct Outgoing {
    pub(crate) body: Bytes,
    pub(crate) properties: BasicProperties,
    /// Bytes of the frame that carries the properties: AMQP cannot split it.
    header_bytes: usize,
}

impl Outgoing {
    /// *Rejected*: too large in whole, or a header whose name is too long.
    pub(crate) fn new(envelope: Envelope) -> Result<Self> {
        let Envelope { headers, body, .. } = envelope;
        let mut header_bytes = HEADER_FRAME_BYTES + 4 + 2;
        let mut bytes = body.len();
        let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
        // Foreign consumers know a message by its id, and a returned one is known by it again.
        if let Some(id) = headers.get(header::ID).and_then(|id| short(id)) {
            header_bytes += 1 + id.as_str().len();
            properties = properties.with_message_id(id);
        }
        if let Some(content_type) = headers.get(header::CONTENT_TYPE).and_then(|text| short(text)) {
            header_bytes += 1 + content_type.as_str().len();
            properties = properties.with_content_type(content_type);
        }
        let mut table = BTreeMap::new();
        for (name, value) in headers {
            bytes += name.len() + value.len();
            header_bytes += 1 + name.len() + 1 + 4 + value.len();
            let Ok(name) = ShortString::try_new(name) else {
                return Err(Error::rejected(format!(
                    "publish: a header's name is longer than {MAX_SHORT_BYTES} bytes"
                )));
            };
            table.insert(name, AMQPValue::LongString(value.into()));
        }
        if bytes > MAX_PUBLISH_BYTES {
            return Err(Error::rejected(format!(
                "publish: {bytes} bytes of body and headers are too many, at most {MAX_PUBLISH_BYTES} are carried"
            )));
        }
        Ok(Self { body, properties: properties.with_headers(FieldTable::from(table)), header_bytes })
    }

    /// *Rejected*: its headers do not fit one frame of a connection whose frames are at most `frame_max`. Sent all the same,
    /// the broker would close the connection and make hundreds of others unknown.
    pub(crate) fn check(&self, frame_max: usize) -> Result<()> {
        let most = frame_max.saturating_sub(HEADROOM);
        if self.header_bytes <= most {
            return Ok(());
        }
        Err(Error::rejected(format!(
            "publish: {} bytes of headers (attributes among them) do not fit an AMQP frame, of which {most} are free for them: \
             send less beside the text, or raise `frame_max` in rabbitmq.conf and as `?frame_max=` in AMQP_URL",
            self.header_bytes
        )))
    }

    /// By which a returned message is told from its neighbours.
    pub(crate) fn id(&self) -> Option<ShortString> {
        self.properties.message_id().clone()
    }
}

fn short(text: &str) -> Option<ShortString> {
    ShortString::try_new(text).ok()
}

/// What was delivered, and how often it came back before.
pub(crate) fn envelope(delivery: Delivery, names: &Names) -> (Envelope, u32) {
    let mut headers = BTreeMap::new();
    let mut returns = 0;
    let mut first_exchange = None;
    let table = delivery.properties.headers().as_ref();
    for (name, value) in table.into_iter().flat_map(FieldTable::inner) {
        let name = name.as_str();
        if name == DELIVERY_COUNT {
            returns = count(value);
        }
        // Headers of other types are left out, whoever made them.
        let Some(text) = text(value) else { continue };
        if name == FIRST_DEATH_EXCHANGE {
            first_exchange = names.topic_of(text);
        }
        headers.insert(name.to_owned(), text.to_owned());
    }
    // What another publisher says by property alone counts as said by header.
    if let Some(content_type) = delivery.properties.content_type() {
        headers.entry(header::CONTENT_TYPE.to_owned()).or_insert_with(|| content_type.as_str().to_owned());
    }
    let envelope = Envelope {
        headers,
        native_id: delivery.properties.message_id().as_ref().map(|id| id.as_str().to_owned()),
        // In a safety net, the exchange is the one that it came by last.
        published_to: first_exchange.or_else(|| names.topic_of(delivery.exchange.as_str())),
        body: Bytes::from(delivery.data),
    };
    (envelope, returns)
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

fn count(value: &AMQPValue) -> u32 {
    let count = match value {
        AMQPValue::LongLongInt(count) => *count,
        AMQPValue::LongInt(count) => i64::from(*count),
        AMQPValue::LongUInt(count) => i64::from(*count),
        AMQPValue::ShortInt(count) => i64::from(*count),
        AMQPValue::ShortShortInt(count) => i64::from(*count),
        _ => 0,
    };
    u32::try_from(count.max(0)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivered(exchange: &str, properties: BasicProperties) -> (Envelope, u32) {
        let mut delivery = Delivery::mock(1, exchange.into(), "".into(), false, b"body".to_vec());
        delivery.properties = properties;
        envelope(delivery, &Names::new("t"))
    }

    fn table(entries: Vec<(&str, AMQPValue)>) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in entries {
            table.insert(name.into(), value);
        }
        table
    }

    #[test]
    fn headers_of_other_types_are_left_out() {
        let odd = table(vec![
            ("text", AMQPValue::LongString("yes".into())),
            ("bytes", AMQPValue::LongString(vec![0xff, 0xfe].into())),
            ("number", AMQPValue::LongInt(7)),
            ("flag", AMQPValue::Boolean(true)),
            ("nothing", AMQPValue::Void),
            ("nested", AMQPValue::FieldTable(table(vec![("x", AMQPValue::Double(0.5))]))),
            ("list", AMQPValue::FieldArray(vec![AMQPValue::LongString("x".into())].into())),
            ("x-delivery-count", AMQPValue::LongLongInt(3)),
        ]);
        let (envelope, returns) = delivered("t-topic-orders", BasicProperties::default().with_headers(odd));
        assert_eq!(envelope.headers, BTreeMap::from([("text".to_owned(), "yes".to_owned())]));
        assert_eq!((returns, envelope.published_to.unwrap().as_str()), (3, "orders"));
        assert_eq!(envelope.body, "body");
    }

    #[test]
    fn a_content_type_by_property_counts_unless_a_header_says_another() {
        let by_property = BasicProperties::default().with_content_type("application/json".into());
        assert_eq!(delivered("", by_property.clone()).0.headers["content-type"], "application/json");
        let headers = table(vec![("content-type", AMQPValue::LongString("text/markdown".into()))]);
        let (envelope, _) = delivered("", by_property.with_headers(headers));
        assert_eq!(envelope.headers["content-type"], "text/markdown");
    }

    #[test]
    fn a_message_in_a_safety_net_keeps_its_topic() {
        let died = table(vec![
            ("x-first-death-exchange", AMQPValue::LongString("t-topic-orders".into())),
            ("x-death", AMQPValue::FieldArray(Vec::new().into())),
        ]);
        let (envelope, _) = delivered("", BasicProperties::default().with_headers(died));
        assert_eq!(envelope.published_to.unwrap().as_str(), "orders");
    }

    #[test]
    fn headers_that_no_frame_can_carry_are_rejected() {
        let with = |bytes: usize| {
            let headers = BTreeMap::from([("attributes".to_owned(), "x".repeat(bytes))]);
            Outgoing::new(Envelope { headers, ..Envelope::default() }).unwrap()
        };
        assert!(with(120_000).check(131_072).is_ok());
        assert!(with(131_072 - 4096).check(131_072).is_err());
        assert!(with(255 * 1024).check(131_072).is_err());
        assert!(with(255 * 1024).check(300_000).is_ok());
    }

    #[test]
    fn the_id_is_also_the_property() {
        let headers = BTreeMap::from([("id".to_owned(), "0190".to_owned())]);
        let outgoing = Outgoing::new(Envelope { headers, ..Envelope::default() }).unwrap();
        assert_eq!(outgoing.id(), Some("0190".into()));
    }
}
