use super::*;

/// What a server sent.
pub(crate) fn recorded() -> Vec<Vec<u8>> {
    let lines = include_str!("recorded.txt").lines().filter(|line| !line.starts_with('#'));
    let byte = |hex: &[u8]| u8::from_str_radix(std::str::from_utf8(hex).unwrap(), 16).unwrap();
    lines.map(|line| line.as_bytes().chunks(2).map(byte).collect()).collect()
}

fn kind(message: &Message<'_>) -> String {
    match message {
        Message::Begin { .. } => "begin".to_owned(),
        Message::Commit { .. } => "commit".to_owned(),
        Message::Relation(relation) => format!("relation of {}", relation.columns.len()),
        Message::Insert { row, .. } => format!("insert of {}", row.values().count()),
        Message::Ignored(ignored) => ignored.as_str().to_owned(),
        Message::Logical { transactional: true, .. } => "message within".to_owned(),
        Message::Logical { .. } => "message".to_owned(),
    }
}

#[test]
fn what_a_server_sent_is_read() {
    let recorded = recorded();
    let kinds: Vec<_> = recorded.iter().map(|bytes| kind(&parse(bytes).unwrap())).collect();
    let expected = [
        "begin, relation of 10, insert of 10, commit",
        "begin, insert of 10, type, relation of 2, insert of 2, commit",
        "begin, update, commit",
        "begin, relation of 10, update, commit",
        "begin, delete, commit",
        "begin, relation of 10, type, relation of 2, truncate, commit",
        "begin, relation of 10, insert of 10, commit",
        "message",
        "begin, message within, type, relation of 2, insert of 2, commit",
        "begin, origin, insert of 2, commit",
    ];
    assert_eq!(kinds.join(", "), expected.join(", "));
}

#[test]
fn the_first_transaction_in_full() {
    let recorded = recorded();
    let Message::Begin { commit, xid } = parse(&recorded[0]).unwrap() else { panic!() };
    assert!(commit > Lsn(0x100_0000) && xid > 700);
    let Message::Relation(relation) = parse(&recorded[1]).unwrap() else { panic!() };
    assert_eq!(relation.columns[..3], [&b"id"[..], b"topic", b"message"]);
    let Message::Insert { table, row } = parse(&recorded[2]).unwrap() else { panic!() };
    assert_eq!(table, relation.table);
    let values: Vec<_> = row.values().collect();
    assert_eq!(values[0], Value::Text(b"01890000-0000-7000-8000-000000000001"));
    assert_eq!(values[2], Value::Text("ein ä 🎉".as_bytes()));
    assert_eq!(values[5], Value::Text(br#"{"a":"x","n":[1,true]}"#));
    assert_eq!(values[6], Value::Text(b"2026-11-25 02:08:24.123+00"));
    let Message::Commit { end } = parse(&recorded[3]).unwrap() else { panic!() };
    assert!(end > commit, "the end is behind the commit's own place");
}

#[test]
fn what_is_stored_apart_and_not_changed_is_absent() {
    let recorded = recorded();
    let update = recorded.iter().find(|bytes| bytes[0] == b'U').unwrap();
    // Behind the kind, the table and the kind of the tuple.
    let values: Vec<_> = Input(&update[6..]).tuple().unwrap().values().collect();
    assert_eq!(values[2], Value::Unchanged);
    assert_eq!(values[3], Value::Text(b"new"));
    assert_eq!(values[9], Value::Null);
}

#[test]
fn messages_of_programs() {
    let recorded = recorded();
    let all: Vec<_> =
        recorded.iter().filter(|bytes| bytes[0] == b'M').map(|bytes| parse(bytes).unwrap()).collect();
    let [
        Message::Logical { transactional: false, prefix: b"tidings-heartbeat", content: b"42", .. },
        Message::Logical { transactional: true, prefix: b"other", content: b"\x00\xff", .. },
    ] = all[..]
    else {
        panic!("{all:?}");
    };
}

#[test]
fn every_beginning_is_too_short_and_every_addition_too_long() {
    for message in recorded() {
        for length in 0..message.len() {
            assert!(parse(&message[..length]).is_err(), "{length} of {}", message.len());
        }
        let longer = [&message[..], b"\0"].concat();
        assert_eq!(parse(&longer).unwrap_err(), Malformed::Long);
    }
}

#[test]
fn unknown_kinds_are_refused_by_their_names() {
    // Those of later protocols: streams, two phases.
    for tag in b"SEAcbKPrp\0\xff" {
        let error = parse(&[*tag, 0, 0, 0]).unwrap_err();
        assert_eq!(error, Malformed::UnknownMessage(*tag));
        assert!(error.to_string().contains(&tag.escape_ascii().to_string()), "{error}");
    }
    assert_eq!(parse(b"I\0\0\0\x01X").unwrap_err(), Malformed::UnknownKind(b'X'));
    assert_eq!(parse(b"I\0\0\0\x01N\0\x01x").unwrap_err(), Malformed::UnknownKind(b'x'));
    assert_eq!(parse(b"").unwrap_err(), Malformed::Short);
}

#[test]
fn huge_counts_allocate_nothing() {
    for message in [
        &b"I\0\0\0\x01N\xff\xff"[..],
        b"I\0\0\0\x01N\0\x01t\xff\xff\xff\xff",
        b"I\0\0\0\x01N\0\x01t\x7f\xff\xff\xff",
        b"R\0\0\0\x01\0\0d\xff\xff",
        b"T\xff\xff\xff\xff\0",
        b"M\0\0\0\0\0\0\0\0\0p\0\xff\xff\xff\xff",
    ] {
        assert_eq!(parse(message).unwrap_err(), Malformed::Short, "{message:?}");
    }
}
