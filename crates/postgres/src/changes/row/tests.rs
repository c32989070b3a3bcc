use super::*;
use crate::changes::pgoutput::{self, Message as Wire, tests::recorded};

/// A description with these names, as the server writes it.
fn relation(names: &[&str]) -> Vec<u8> {
    let mut bytes = b"R\0\0\0\x01public\0items\0d".to_vec();
    bytes.extend(u16::try_from(names.len()).unwrap().to_be_bytes());
    for name in names {
        bytes.push(0);
        bytes.extend(name.as_bytes());
        bytes.extend([0; 9]);
    }
    bytes
}

fn insert(values: &[Value<'_>]) -> Vec<u8> {
    let mut bytes = b"I\0\0\0\x01N".to_vec();
    bytes.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        let (kind, content) = match value {
            Value::Null => (b'n', None),
            Value::Unchanged => (b'u', None),
            Value::Text(content) => (b't', Some(content)),
            Value::Binary(content) => (b'b', Some(content)),
        };
        bytes.push(kind);
        if let Some(content) = content {
            bytes.extend(u32::try_from(content.len()).unwrap().to_be_bytes());
            bytes.extend(*content);
        }
    }
    bytes
}

const GOOD: [Value<'_>; 10] = [
    Value::Text(b"01890000-0000-7000-8000-000000000001"),
    Value::Text(b"messages"),
    Value::Text(b"text"),
    Value::Null,
    Value::Text(b"text/plain"),
    Value::Text(b"{}"),
    Value::Text(b"2026-11-25 02:08:24+00"),
    Value::Text(b"2026-11-25 02:08:25.1+00"),
    Value::Null,
    Value::Null,
];

fn read(names: &[&str], values: &[Value<'_>]) -> Result<(Item, u64), Box<UnreadableChange>> {
    let (relation, insert) = (relation(names), insert(values));
    let Wire::Relation(relation) = pgoutput::parse(&relation).unwrap() else { panic!() };
    let Wire::Insert { row, .. } = pgoutput::parse(&insert).unwrap() else { panic!() };
    Layout::of(&relation).read(row)
}

/// A good row with one value replaced.
fn with(column: usize, value: Value<'_>) -> Result<(Item, u64), Box<UnreadableChange>> {
    let mut values = GOOD;
    values[column] = value;
    read(&NAMES, &values)
}

#[test]
fn a_recorded_row_is_its_item() {
    let recorded = recorded();
    let (Wire::Relation(relation), Wire::Insert { row, .. }) =
        (pgoutput::parse(&recorded[1]).unwrap(), pgoutput::parse(&recorded[2]).unwrap())
    else {
        panic!()
    };
    let (item, size) = Layout::of(&relation).read(row).unwrap();
    assert_eq!(item.message.text.as_str(), "ein ä 🎉");
    assert_eq!(item.message.subject.unwrap().as_str(), "subject");
    assert_eq!(item.message.attributes.to_json_text(), r#"{"a":"x","n":[1,true]}"#);
    assert_eq!(item.message.trace.tracestate.as_deref(), Some("a=b"));
    assert_eq!(item.message.accepted_at.to_string(), "2026-11-25T02:08:24.123Z");
    assert_eq!(item.stored_at.to_string(), "2026-11-25T02:08:25.000Z");
    assert!(size > 200);
}

#[test]
fn columns_are_known_by_their_names() {
    let (straight, _) = read(&NAMES, &GOOD).unwrap();
    let mut names: Vec<_> = NAMES.iter().rev().copied().collect();
    let mut values: Vec<_> = GOOD.iter().rev().copied().collect();
    names.insert(3, "extra");
    values.insert(3, Value::Text(b"unknown"));
    let (turned, size) = read(&names, &values).unwrap();
    assert_eq!(straight, turned);
    assert_eq!(size, 36 + 8 + 4 + 10 + 2 + 22 + 24 + 7);
    // Who has no trace may also have no columns for it.
    assert_eq!(read(&NAMES[..8], &GOOD[..8]).unwrap().0, straight);
}

#[test]
fn what_cannot_be_read_is_told_with_what_can() {
    let huge = "x".repeat(tidings_domain::text::MAX_MESSAGE_BYTES + 1);
    let table: [(usize, Value<'_>, &str); 16] = [
        (ID, Value::Text(b"no uuid"), "id: not a UUID"),
        (ID, Value::Null, "id is NULL"),
        (TOPIC, Value::Text(b"Not A Topic"), "topic: "),
        (MESSAGE, Value::Null, "message is NULL"),
        (MESSAGE, Value::Unchanged, "message is absent"),
        (MESSAGE, Value::Binary(b"x"), "message is not a text"),
        (MESSAGE, Value::Text(b"a\xffb"), "message: the text is not UTF-8: byte 1"),
        (MESSAGE, Value::Text(b"a\x01b"), "U+0001"),
        (MESSAGE, Value::Text(b""), "empty"),
        (MESSAGE, Value::Text(huge.as_bytes()), "261120"),
        (SUBJECT, Value::Text(b"two\nlines"), "subject: "),
        (CONTENT_TYPE, Value::Text(b"a\x01"), "content_type: "),
        (ATTRIBUTES, Value::Text(b"[1]"), "attributes: "),
        (ATTRIBUTES, Value::Text(b"\xff"), "attributes: the text is not UTF-8"),
        (ACCEPTED_AT, Value::Text(b"infinity"), "accepted_at: not a time"),
        (STORED_AT, Value::Text(b"0044-03-15 00:00:00+00 BC"), "stored_at: not a time"),
    ];
    for (column, value, detail) in table {
        let unreadable = with(column, value).unwrap_err();
        assert!(unreadable.detail.contains(detail), "{:?} is not in {:?}", detail, unreadable.detail);
        assert_eq!(unreadable.message_id.is_some(), column != ID, "{detail}");
        assert_eq!(unreadable.topic.is_some(), column != TOPIC, "{detail}");
        let row: Json = serde_json::from_slice(&unreadable.bytes).unwrap();
        assert_eq!(row.get("message").is_some(), value != Value::Unchanged || column != MESSAGE);
        assert_eq!(with(column, value).unwrap_err(), unreadable, "the same row gives the same letter");
    }
}

#[test]
fn text_subject_and_attributes_are_held_to_their_sum() {
    let text = "x".repeat(tidings_domain::text::MAX_MESSAGE_BYTES - 3);
    assert!(with(MESSAGE, Value::Text(text.as_bytes())).is_ok());
    let mut values = GOOD;
    values[MESSAGE] = Value::Text(text.as_bytes());
    values[SUBJECT] = Value::Text(b"four");
    assert!(read(&NAMES, &values).unwrap_err().detail.contains("261121"));
}

#[test]
fn a_missing_column_is_told() {
    let unreadable = read(&NAMES[..7], &GOOD[..7]).unwrap_err();
    assert_eq!(unreadable.detail, "stored_at is absent");
}

#[test]
fn bytes_are_kept_as_hex_and_cut_where_they_are_endless() {
    let unreadable = with(MESSAGE, Value::Text(b"a\xffb")).unwrap_err();
    let row: Json = serde_json::from_slice(&unreadable.bytes).unwrap();
    assert_eq!(row["message"], "\\x61ff62");
    assert_eq!((&row["subject"], &row["topic"]), (&Json::Null, &Json::from("messages")));
    let endless = "ä".repeat(LONGEST_KEPT);
    let unreadable = with(MESSAGE, Value::Text(&endless.as_bytes()[..2 * LONGEST_KEPT])).unwrap_err();
    let row: Json = serde_json::from_slice(&unreadable.bytes).unwrap();
    assert_eq!(row["message"].as_str().unwrap().len(), LONGEST_KEPT);
}

#[test]
fn each_row_has_its_own_topic_whatever_the_last_one_had() {
    let relation = relation(&NAMES);
    let Wire::Relation(relation) = pgoutput::parse(&relation).unwrap() else { panic!() };
    let mut layout = Layout::of(&relation);
    for topic in ["messages", "messages", "orders", "", "orders", "messages"] {
        let mut values = GOOD;
        values[1] = Value::Text(topic.as_bytes());
        let insert = insert(&values);
        let Wire::Insert { row, .. } = pgoutput::parse(&insert).unwrap() else { panic!() };
        match layout.read(row) {
            Ok((item, _)) => assert_eq!(item.message.topic.as_str(), topic),
            Err(row) => assert_eq!((topic, row.topic), ("", None)),
        }
    }
}
