//! Holds the serde record of the second hop to `proto/tidings/v1/change.proto`, in both directions.

use std::path::Path;

use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, ReflectMessage as _,
    SerializeOptions,
};
use serde_json::{Value, json};
use tidings_domain::{
    attributes::Attributes,
    id::MessageId,
    item::{Change, Item},
    message::Message,
    text::{Subject, Text},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
    wire::{
        MAX_HEADERS,
        change::{self, ChangeRecord, Publish},
    },
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn descriptor() -> MessageDescriptor {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../proto");
    let files = protox::compile(["tidings/v1/change.proto"], [proto]).expect("the proto compiles");
    let pool = DescriptorPool::from_file_descriptor_set(files).expect("the proto is whole");
    pool.get_message_by_name("tidings.v1.Change").expect("it has Change")
}

fn to_proto(json: &Value) -> DynamicMessage {
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    DynamicMessage::deserialize_with_options(descriptor(), json, &options)
        .expect("every field that we write is in the proto, with its type")
}

fn change() -> Change {
    let message = Message {
        id: MessageId(uuid::Uuid::from_u128(5)),
        topic: TopicName::messages(),
        text: Text::parse("héllo \"🎉\"\n").expect("the sample is valid"),
        subject: Some(Subject::parse("Hi").expect("the sample is valid")),
        content_type: "text/plain; charset=utf-8".into(),
        attributes: Attributes::from_json(
            json!({"customer": "a", "n": 1.5, "AWS.x": "no", "list": ["a", true]}),
        )
        .expect("the sample is valid"),
        accepted_at: Timestamp::from_millis(1_700_000_000_123),
        trace: TraceContext::parse(Some(TRACEPARENT), Some("a=b")),
    };
    Change {
        event_id: "7".into(),
        sequence_number: "7".into(),
        item: Item { message, stored_at: Timestamp::from_millis(1_700_000_000_200) },
        size_bytes: 300,
        captured_at: Timestamp::from_millis(1_700_000_000_300),
    }
}

fn publish() -> Publish {
    Publish {
        at: Timestamp::from_millis(1_700_000_000_400),
        round: 2,
        replay: Some("r1".into()),
        trace: TraceContext::parse(Some(TRACEPARENT), None),
    }
}

#[test]
fn what_we_write_is_the_proto_and_what_the_proto_writes_we_read() {
    let envelope = change::encode(&change(), &publish(), usize::MAX);
    let ours: Value = serde_json::from_slice(&envelope.body).unwrap();
    let message = to_proto(&ours);
    let options = SerializeOptions::new().stringify_64_bit_integers(true);
    let theirs = message.serialize_with_options(serde_json::value::Serializer, &options).unwrap();
    let record: ChangeRecord = serde_json::from_value(theirs).unwrap();
    assert_eq!(record, serde_json::from_value::<ChangeRecord>(ours).unwrap());
}

#[test]
fn every_field_of_the_proto_is_known_to_us() {
    let envelope = change::encode(&change(), &publish(), usize::MAX);
    let message = to_proto(&serde_json::from_slice(&envelope.body).unwrap());
    for field in message.descriptor().fields() {
        assert!(message.has_field(&field), "a full record lacks {}", field.full_name());
    }
    let image = message.get_field_by_name("new_image").unwrap().into_owned();
    let image = image.as_message().unwrap().clone();
    for field in image.descriptor().fields() {
        assert!(image.has_field(&field), "a full record lacks {}", field.full_name());
    }
}

#[test]
fn absent_means_default_and_unknown_fields_are_ignored() {
    let record: ChangeRecord =
        serde_json::from_value(json!({"eventName": "INSERT", "later": {"x": 1}})).unwrap();
    assert_eq!(record, ChangeRecord { event_name: "INSERT".into(), ..ChangeRecord::default() });
}

#[test]
fn a_record_is_read_as_it_was_written() {
    let envelope = change::encode(&change(), &publish(), usize::MAX);
    assert!(envelope.headers.len() <= MAX_HEADERS);
    assert_eq!(envelope.headers["customer"], "a");
    assert!(!envelope.headers.contains_key("AWS.x"));
    let decoded = change::decode(&envelope, Timestamp::MAX).unwrap();
    assert_eq!(decoded.item, Some(change().item));
    assert_eq!(decoded.notification.round, 2);
    assert_eq!(decoded.notification.replay.as_deref(), Some("r1"));
    assert_eq!(decoded.notification.published_at, publish().at);
    assert_eq!(decoded.trace, publish().trace);
}

#[test]
fn a_message_that_does_not_fit_is_left_out_and_its_size_told() {
    let whole = change::encode(&change(), &publish(), usize::MAX);
    let beside: usize = whole.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let fits = whole.body.len() + beside;
    assert_eq!(change::encode(&change(), &publish(), fits), whole);
    let envelope = change::encode(&change(), &publish(), fits - 1);
    let record: ChangeRecord = serde_json::from_slice(&envelope.body).unwrap();
    let image = record.new_image.unwrap();
    assert_eq!((image.message, image.message_bytes), (None, 14));
    assert_eq!(change::decode(&envelope, Timestamp::MAX).unwrap().item, None);
}
