//! Values to run behaviours with, and the few steps that several suites begin with.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tidings_domain::{
    address::EmailAddress,
    attributes::Attributes,
    dead_letter::{DeadLetter, DeadLetterSource, reason},
    delivery::{Answer, Claim, DeliveryKey, DeliveryKind, LeaseToken, NewDelivery, Outcome},
    filter::Filter,
    id::{DeadLetterId, MessageId, SubscriptionId},
    message::{Message, TEXT_PLAIN},
    notification::{Cursor, Notification, Plan},
    page::PageRequest,
    ports::{NewItem, Subscriptions},
    subscription::{Act, Acted, Subscription, SubscriptionRequest},
    text::{Subject, Text},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
    wire::Envelope,
};
use uuid::Uuid;

/// How long a claim's lease lasts.
pub(crate) const LEASE: Duration = Duration::from_secs(60);

/// The time at which behaviours begin; ports are told the time by their callers.
pub(crate) fn start() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

/// `seconds` after the start.
pub(crate) fn after_s(seconds: u64) -> Timestamp {
    start().plus(Duration::from_secs(seconds))
}

/// A topic's name.
pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("behaviours name topics by the rule")
}

/// An address of `example.org`.
pub(crate) fn email(name: &str) -> EmailAddress {
    EmailAddress::parse(&format!("{name}@example.org")).expect("behaviours name addresses by the rule")
}

/// A page of `limit` after `cursor`.
pub(crate) fn page(limit: u32, cursor: Option<String>) -> PageRequest {
    PageRequest { limit, cursor }
}

/// A message id by number.
pub(crate) fn message_id(number: u128) -> MessageId {
    MessageId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number))
}

/// A subscription id by number; ids sort as their numbers.
pub(crate) fn subscription_id(number: u128) -> SubscriptionId {
    SubscriptionId(Uuid::from_u128(0x0180_0000_0000_7000_8000_0000_0000_0000 + number))
}

/// A message on the topic `messages`, with everything that one can have.
pub(crate) fn message(number: u128) -> Message {
    Message {
        id: message_id(number),
        topic: TopicName::messages(),
        text: Text::parse(&format!("text {number}: ]]> żółć 🎉\r\n\ttail")).expect("a text"),
        subject: Some(Subject::parse(&format!("Subject {number} ö")).expect("a subject")),
        content_type: TEXT_PLAIN.to_owned(),
        attributes: Attributes::from_json(
            serde_json::json!({"kind": "sample", "n": 1.5, "list": ["a", true]}),
        )
        .expect("attributes"),
        accepted_at: start(),
        trace: TraceContext::parse(
            Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            Some("vendor=value"),
        ),
    }
}

/// A row to insert, stored `seconds` after the start.
pub(crate) fn item(number: u128, seconds: u64) -> NewItem {
    NewItem { message: message(number), stored_at: after_s(seconds) }
}

/// A row that breaks a rule of the table: text, subject and attributes together are too large.
pub(crate) fn oversize_item(number: u128) -> NewItem {
    let mut item = item(number, 0);
    item.message.text = Text::parse(&"x".repeat(tidings_domain::text::MAX_MESSAGE_BYTES)).expect("a text");
    item
}

/// An envelope with this body and a header.
pub(crate) fn envelope(body: impl Into<Bytes>) -> Envelope {
    Envelope {
        headers: BTreeMap::from([("content-type".to_owned(), "text/plain".to_owned())]),
        body: body.into(),
        native_id: None,
        published_to: None,
    }
}

/// A wish of `name` to be mailed of the topic `messages`, made `seconds` after the start.
pub(crate) fn request(number: u128, name: &str, seconds: u64) -> SubscriptionRequest {
    SubscriptionRequest {
        new_id: subscription_id(number),
        topic: TopicName::messages(),
        email: email(name),
        filter: Filter::default(),
        confirmed_by: None,
        by_admin: false,
        at: after_s(seconds),
    }
}

/// Makes subscription `number` of the topic `messages`, confirmed by its link; its confirmation's delivery stays open.
pub(crate) async fn confirmed(port: &dyn Subscriptions, number: u128) -> Subscription {
    let request = request(number, &format!("reader-{number}"), 0);
    let requested = port.request(&request, &TraceContext::default()).await.expect("request a subscription");
    let Subscription { id, generation, .. } = requested.subscription;
    match port.act(id, Act::Confirm, generation, after_s(1)).await.expect("confirm a subscription") {
        Acted::Done(subscription) => subscription,
        acted => panic!("a confirmation of a fresh request came to {acted:?}"),
    }
}

/// Makes subscription `number` confirmed by an admin: no confirmation is mailed.
pub(crate) async fn consented(port: &dyn Subscriptions, number: u128) -> Subscription {
    let mut request = request(number, &format!("reader-{number}"), 0);
    request.confirmed_by = Some("admin".to_owned());
    request.by_admin = true;
    port.request(&request, &TraceContext::default()).await.expect("request a subscription").subscription
}

/// The notification of item `number`.
pub(crate) fn notification(number: u128) -> Notification {
    Notification {
        item: message_id(number),
        round: 0,
        topic: TopicName::messages(),
        replay: None,
        captured_at: after_s(2),
        published_at: after_s(3),
    }
}

/// The key of the delivery of item `number` to subscription `to`.
pub(crate) fn key(number: u128, to: u128) -> DeliveryKey {
    DeliveryKey { about: message_id(number).0, subscription: subscription_id(to), round: 0 }
}

/// A delivery of item `number` to subscription `to`, due `seconds` after the start.
pub(crate) fn new_delivery(number: u128, to: u128, seconds: u64) -> NewDelivery {
    NewDelivery {
        key: key(number, to),
        kind: DeliveryKind::Item,
        topic: TopicName::messages(),
        due_at: after_s(seconds),
        created_at: after_s(seconds),
        trace: message(number).trace,
    }
}

/// The page of item `number` to `recipients`, from one cursor to another, due 10 s after the start.
pub(crate) fn plan(number: u128, from: Cursor, recipients: &[u128], to: Cursor) -> Plan {
    Plan {
        notification: notification(number),
        from,
        page: recipients.iter().map(|recipient| new_delivery(number, *recipient, 10)).collect(),
        to,
        claim: None,
        at: after_s(10),
    }
}

/// A lease's token by number.
pub(crate) fn token(number: u128) -> LeaseToken {
    LeaseToken(Uuid::from_u128(0x4000_8000_0000_0000_0000 + number))
}

/// A claim made `seconds` after the start, for [`LEASE`].
pub(crate) fn claim(number: u128, seconds: u64) -> Claim {
    let at = after_s(seconds);
    Claim { token: token(number), owner: format!("mailer-{number}"), at, until: at.plus(LEASE) }
}

/// A mail server's answer.
pub(crate) fn answer(code: u16, seconds: u64) -> Answer {
    Answer { at: after_s(seconds), phase: "message".to_owned(), code, text: format!("answer {code} é") }
}

/// The outcome of a delivery that is given up, with its dead letter.
pub(crate) fn failed(key: DeliveryKey, code: u16, seconds: u64) -> Outcome {
    let letter = DeadLetter {
        id: DeadLetter::id_for(DeadLetterSource::Deliveries, reason::REFUSED, key.to_string().as_bytes()),
        source: DeadLetterSource::Deliveries,
        topic: Some(TopicName::messages()),
        message_id: Some(key.about),
        delivery: Some(key),
        reason: reason::REFUSED.to_owned(),
        detail: "the mail server refused the recipient".to_owned(),
        headers: BTreeMap::new(),
        body: Bytes::new(),
        attempts: 1,
        created_at: after_s(seconds),
        marked_at: None,
    };
    Outcome::Failed { answer: Some(answer(code, seconds)), unknown: false, dead_letter: Box::new(letter) }
}

/// A dead letter by number, written as many seconds after the start.
pub(crate) fn dead_letter(number: u64, source: DeadLetterSource, reason: &str) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId(Uuid::from_u128(0x0170_0000_0000_7000_8000_0000_0000_0000 + u128::from(number))),
        source,
        topic: Some(TopicName::messages()),
        message_id: Some(message_id(u128::from(number)).0),
        delivery: None,
        reason: reason.to_owned(),
        detail: format!("detail {number} é"),
        headers: BTreeMap::from([("subject".to_owned(), "Grüße 🎉".to_owned())]),
        // Not UTF-8 on purpose: a dead letter keeps what came, byte for byte.
        body: Bytes::from(vec![0, 255, u8::try_from(number % 256).unwrap_or_default(), b'\n']),
        attempts: 3,
        created_at: after_s(number),
        marked_at: None,
    }
}
