//! Other parties: they publish to the bus and write rows with their own means, well and badly.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;
use tidings_domain::{
    attributes::Attributes,
    dead_letter::reason,
    id::{MessageId, new_v7},
    message::{Message, TEXT_PLAIN},
    ports::{NewItem, Queue},
    text::Text,
    topic::TopicName,
    trace_context::TraceContext,
    wire::Envelope,
};

use super::Client;
use crate::{
    ledger::{Expected, Foreign},
    plan::{KINDS, TOPICS},
};

impl Client {
    /// Does one of the things that other parties do.
    pub(crate) async fn meddle(&self) {
        let number = self.ledger.number();
        let topic = TopicName::parse(TOPICS[0]).expect("the topic messages has a valid name");
        let text = format!("foreign {number}");
        let id = || new_v7(&self.memory.clock(), &self.chance);
        let native = format!("native-{number}");
        let envelope = |headers: &[(&str, String)], body: &[u8], native_id: Option<String>| Envelope {
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.clone()))
                .collect::<BTreeMap<_, _>>(),
            body: Bytes::copy_from_slice(body),
            native_id,
            published_to: Some(topic.clone()),
        };
        let item = Expected::Item { text: text.clone() };
        let letter = |reason| Expected::DeadLetter { reason };
        let (queue, envelope, expected) = match self.chance.below(9) {
            0 => (Queue::Items, envelope(&[], text.as_bytes(), Some(native)), item),
            1 => {
                let attributes = json!({ "kind": KINDS[0] }).to_string();
                let headers = [
                    ("id", id().to_string()),
                    ("attributes", attributes),
                    ("x-other", "anything".to_owned()),
                ];
                (Queue::Items, envelope(&headers, text.as_bytes(), None), item)
            }
            2 => (Queue::Items, envelope(&[], text.as_bytes(), None), letter(reason::NO_ID)),
            3 => {
                let body = format!("foreign {number} with \u{1} in it");
                (
                    Queue::Items,
                    envelope(&[("x-own", native.clone())], body.as_bytes(), Some(native)),
                    letter(reason::UNDECODABLE),
                )
            }
            4 => {
                let headers = [("id", id().to_string()), ("topic", "No Such Topic".to_owned())];
                (Queue::Items, envelope(&headers, text.as_bytes(), None), letter(reason::UNDECODABLE))
            }
            5 => {
                let body = format!("{{\"no\": \"record {number}\"}}");
                let mut foreign = envelope(&[("id", id().to_string())], body.as_bytes(), None);
                foreign.published_to = None;
                (Queue::Mail, foreign, letter(reason::UNDECODABLE))
            }
            6 => {
                let missing = id();
                let image = json!({ "id": missing.to_string(), "topic": TOPICS[0], "messageBytes": 5 });
                let body = json!({ "eventName": "INSERT", "newImage": image }).to_string();
                let mut foreign = envelope(&[("id", missing.to_string())], body.as_bytes(), None);
                foreign.published_to = None;
                (Queue::Mail, foreign, letter(reason::ITEM_MISSING))
            }
            _ => return self.write_row(topic, &text),
        };
        // Whoever publishes by their own means may well do it twice.
        let times = if envelope.native_id.is_some() && self.chance.below(3) == 0 { 2 } else { 1 };
        self.ledger.lock().foreign.push(Foreign { envelope: Some(envelope.clone()), expected });
        for _ in 0..times {
            self.memory.publish_foreign(queue, envelope.clone());
            self.wait(2_000).await;
        }
    }

    /// A row by plain SQL, its id a random one.
    fn write_row(&self, topic: TopicName, text: &str) {
        let attributes = Attributes::from_json(json!({ "kind": KINDS[0] })).expect("an attribute");
        let now = tidings_domain::ports::Clock::now(&self.memory.clock());
        let message = Message {
            id: MessageId(new_v7(&self.memory.clock(), &self.chance)),
            topic,
            text: Text::parse(text).expect("a text"),
            subject: None,
            content_type: TEXT_PLAIN.to_owned(),
            attributes,
            accepted_at: now,
            trace: TraceContext::default(),
        };
        let expected = Expected::Item { text: text.to_owned() };
        self.ledger.lock().foreign.push(Foreign { envelope: None, expected });
        self.memory.insert_foreign(NewItem { message, stored_at: now });
    }
}
