//! Rows that other programs write: what the table takes, and what it refuses.

use tidings_domain::{
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource},
    delivery::{Claim, DeliveryKey, LeaseToken},
    id::{DeadLetterId, SubscriptionId},
    page::PageRequest,
    ports::ItemQuery,
    time::Timestamp,
};
use uuid::Uuid;

use super::rig::{Rig, at};

#[tokio::test]
async fn two_columns_are_enough() {
    let rig = Rig::new().await;
    rig.sql("insert into items (topic, message) values ('messages', 'hello')").await;
    let items = rig.store.items().list(&ItemQuery::default()).await.unwrap().data;
    assert_eq!(items.len(), 1);
    let message = &items[0].message;
    assert_eq!((message.topic.as_str(), message.text.as_str()), ("messages", "hello"));
    assert_eq!(message.content_type, "text/plain; charset=utf-8");
    assert_eq!(message.id.0.get_version_num(), 4);
    assert!(message.subject.is_none() && message.attributes.is_empty());
    assert_eq!(items[0].stored_at, message.accepted_at);
    rig.end().await;
}

/// Columns and values of rows that are taken.
const TAKEN: [(&str, &str); 18] = [
    ("topic, message", "'a', 'x'"),
    ("topic, message", "'order-2-paid', 'x'"),
    ("topic, message", "'messages', repeat('x', 261120)"),
    ("topic, message", "'messages', repeat('é', 130560)"),
    ("topic, message", "'messages', E'tab\\tcr\\rlf\\nand \\u0085 and \\u2028'"),
    ("topic, message, subject", "'messages', 'x', repeat('é', 99)"),
    ("topic, message, subject", "'messages', repeat('x', 261118), 'ab'"),
    ("topic, message, subject", "'messages', 'x', E'with a\\ttab'"),
    ("topic, message, content_type", "'messages', 'x', repeat('x', 255)"),
    (
        "topic, message, attributes",
        r#"'messages', 'x', '{"a": "b", "n": 1e2, "f": 1.0, "t": true, "l": ["x", 1, false]}'"#,
    ),
    ("topic, message, attributes", r#"'messages', 'x', '{}'"#),
    ("topic, message, attributes", r#"'messages', 'x', '{"a": []}'"#),
    (
        "topic, message, attributes",
        "'messages', 'x', (select json_object_agg(n, n) from generate_series(1, 32) n)",
    ),
    ("id, topic, message", "'AAAAAAAA-0000-4000-8000-000000000001', 'messages', 'x'"),
    ("topic, message, accepted_at", "'messages', 'x', '1970-01-01 00:00:00+00'"),
    ("topic, message, stored_at", "'messages', 'x', '9999-12-31 23:59:59.999+00'"),
    ("topic, message, stored_at", "'messages', 'x', '2026-01-02 03:04:05.678901+02'"),
    ("topic, message, tracestate", "'messages', 'x', repeat('x', 256)"),
];

/// Rows that are refused.
const REFUSED: [(&str, &str); 42] = [
    ("topic, message", "'', 'x'"),
    ("topic, message", "'Orders', 'x'"),
    ("topic, message", "'-orders', 'x'"),
    ("topic, message", "'or_ders', 'x'"),
    ("topic, message", "E'orders\\n', 'x'"),
    ("topic, message", "'ördérs', 'x'"),
    ("topic, message", "repeat('a', 41), 'x'"),
    ("message", "'x'"),
    ("topic", "'messages'"),
    ("topic, message", "'messages', null"),
    ("topic, message", "'messages', ''"),
    ("topic, message", "'messages', repeat('x', 261121)"),
    ("topic, message", "'messages', repeat('é', 130561)"),
    ("topic, message", "'messages', E'a\\u0001b'"),
    ("topic, message", "'messages', E'a\\u001fb'"),
    ("topic, message", "'messages', E'a\\u000bb'"),
    ("topic, message", "'messages', E'a\\ufffeb'"),
    ("topic, message", "'messages', E'a\\uffffb'"),
    ("topic, message", "'messages', E'a\\u0000b'"),
    ("topic, message, subject", "'messages', 'x', ''"),
    ("topic, message, subject", "'messages', 'x', repeat('é', 100)"),
    ("topic, message, subject", "'messages', 'x', E'two\\nlines'"),
    ("topic, message, subject", "'messages', 'x', E'two\\u2028lines'"),
    ("topic, message, subject", "'messages', 'x', E'two\\u0085lines'"),
    ("topic, message, subject", "'messages', repeat('x', 261119), 'ab'"),
    ("topic, message, content_type", "'messages', 'x', ''"),
    ("topic, message, content_type", "'messages', 'x', repeat('x', 256)"),
    ("topic, message, content_type", "'messages', 'x', E'text/plain\\r\\nBcc: x'"),
    ("topic, message, attributes", "'messages', 'x', 'no json'"),
    ("topic, message, attributes", "'messages', 'x', '[]'"),
    ("topic, message, attributes", "'messages', 'x', 'null'"),
    ("topic, message, attributes", r#"'messages', 'x', '{"a": null}'"#),
    ("topic, message, attributes", r#"'messages', 'x', '{"a": {"b": 1}}'"#),
    ("topic, message, attributes", r#"'messages', 'x', '{"a": [["b"]]}'"#),
    ("topic, message, attributes", r#"'messages', 'x', '{"a": [null]}'"#),
    ("topic, message, attributes", r#"'messages', 'x', '{"a": "\u0000"}'"#),
    ("topic, message, attributes", r#"'messages', 'x', '{"a": "\u0001"}'"#),
    ("topic, message, attributes", r#"'messages', 'x', '{"a": 1e400}'"#),
    (
        "topic, message, attributes",
        "'messages', 'x', (select json_object_agg(n, n) from generate_series(1, 33) n)",
    ),
    ("topic, message, attributes", "'messages', repeat('x', 261110), '{\"a\": \"bcdef\"}'"),
    ("topic, message, stored_at", "'messages', 'x', 'infinity'"),
    ("topic, message, accepted_at", "'messages', 'x', '1969-12-31 23:59:59+00'"),
];

#[tokio::test]
async fn the_table_takes_what_the_product_takes_and_every_row_can_be_read() {
    let rig = Rig::new().await;
    for (columns, values) in TAKEN {
        let inserted = rig.try_sql(&format!("insert into items ({columns}) values ({values})")).await;
        assert!(inserted.is_ok(), "{columns}: {values}: {inserted:?}");
    }
    let query = ItemQuery { page: PageRequest { limit: 250, cursor: None }, ..ItemQuery::default() };
    let items = rig.store.items().list(&query).await.unwrap().data;
    assert_eq!(items.len(), TAKEN.len(), "each of them can be read");
    let attributes = items.iter().find(|item| item.message.attributes.get("n").is_some()).unwrap();
    assert_eq!(
        attributes.message.attributes.to_json_text(),
        r#"{"a":"b","f":1.0,"l":["x",1,false],"n":100.0,"t":true}"#
    );
    let stored = rig
        .sql("select attributes from items where attributes->>'n' is not null and attributes->>'t' = 'true'")
        .await;
    assert!(stored.contains("1e2") && stored.contains("1.0"), "numbers stay as they were sent: {stored}");
    let fine =
        rig.sql("select count(*) from items where stored_at <> date_trunc('milliseconds', stored_at)").await;
    assert_eq!(fine, "0", "times are whole milliseconds");
    rig.end().await;
}

#[tokio::test]
async fn the_table_refuses_what_the_product_refuses() {
    let rig = Rig::new().await;
    for (columns, values) in REFUSED {
        let inserted = rig.try_sql(&format!("insert into items ({columns}) values ({values})")).await;
        assert!(inserted.is_err(), "{columns}: {values} was taken");
    }
    assert_eq!(rig.sql("select count(*) from items").await, "0");
    rig.end().await;
}

#[tokio::test]
async fn a_copy_is_held_to_the_same() {
    let rig = Rig::new().await;
    // What a client sends, not a file: psql may run in a container.
    let copy = |rows: &str| format!("copy items (topic, message) from stdin;\n{rows}\\.\n");
    rig.sql(&copy("messages\tfirst\nmessages\tsecond\n")).await;
    assert_eq!(rig.sql("select count(*) from items").await, "2");
    let copied = rig.try_sql(&copy("messages\tthird\nMessages\tfourth\n")).await;
    assert!(copied.unwrap_err().contains("topic_is_a_topic_name"), "the check says its name");
    assert_eq!(rig.sql("select count(*) from items").await, "2", "all of a COPY or nothing");
    rig.end().await;
}

#[tokio::test]
async fn an_item_is_never_updated() {
    let rig = Rig::new().await;
    rig.sql("insert into items (topic, message) values ('messages', 'hello')").await;
    for update in [
        "update items set message = 'other'",
        "insert into items (id, topic, message) select id, topic, 'other' from items
            on conflict (id) do update set message = excluded.message",
    ] {
        let refused = rig.try_sql(update).await.unwrap_err();
        assert!(refused.contains("items are never updated"), "{refused}");
    }
    assert_eq!(rig.sql("select message from items").await, "hello");
    rig.end().await;
}

#[tokio::test]
async fn rights_on_the_table_alone_are_enough_to_insert() {
    let rig = Rig::new().await;
    let name = &rig.options.namespace;
    rig.sql(&format!("create role {name} login; grant insert on items to {name}")).await;
    let inserted = rig
        .try_sql(&format!(
            "set role {name}; insert into items (topic, message, attributes) values ('messages', 'hello', '{{\"a\": 1}}')"
        ))
        .await;
    assert!(inserted.is_ok(), "{inserted:?}");
    let read = rig.try_sql(&format!("set role {name}; select * from items")).await;
    assert!(read.unwrap_err().contains("permission denied"));
    rig.sql(&format!("drop owned by {name}; drop role {name}")).await;
    rig.end().await;
}

#[tokio::test]
async fn a_row_that_a_hand_has_broken_is_passed_over() {
    let rig = Rig::new().await;
    let subscriptions = rig.store.subscriptions();
    let insert =
        "insert into subscriptions (id, topic, email, filter, state, generation, created_at, requested_at)";
    rig.sql(&format!(
        "{insert} select gen_random_uuid(), 'messages', n || '@example.com', '{{}}', 'confirmed', 1, now(), now()
        from generate_series(1, 5) n"
    ))
    .await;
    // No check can know every rule: this filter is an object, and no filter.
    rig.sql(&format!(
        "{insert} values ('00000000-0000-0000-0000-000000000001', 'messages', 'b@example.com', '{{\"a\": {{}}}}',
            'confirmed', 1, now(), now())"
    ))
    .await;
    let topic = tidings_domain::topic::TopicName::messages();
    assert_eq!(
        subscriptions.confirmed(&topic, None, 5).await.unwrap().len(),
        5,
        "a full page of those that can be read"
    );
    assert_eq!(subscriptions.list(&Default::default()).await.unwrap().data.len(), 5);
    let broken = tidings_domain::id::SubscriptionId(Uuid::from_u128(1));
    assert_eq!(subscriptions.get(&[broken]).await.unwrap(), [None]);
    assert!(subscriptions.remove(broken).await.unwrap(), "it can be removed");
    rig.end().await;
}

#[tokio::test]
async fn a_broken_delivery_keeps_no_other_back() {
    let rig = Rig::new().await;
    // No check knows every rule: this is no name of a topic, and those are no answers.
    rig.sql(
        "insert into deliveries (about, subscription, round, kind, topic, state, due_at, created_at, answers)
        select '00000000-0000-0000-0000-000000000001', gen_random_uuid(), 0, 'item',
            case n when 2 then 'No Name' else 'messages' end, 'pending', '2026-01-01', now() + n * interval '1 s',
            case n when 4 then array['{}'::json] else '{}' end
        from generate_series(1, 5) n",
    )
    .await;
    let deliveries = rig.store.deliveries();
    let token = LeaseToken(Uuid::from_u128(9));
    let claim = Claim { token, owner: "me".to_owned(), at: at(20), until: at(80) };
    assert_eq!(deliveries.claim(64, &claim).await.unwrap().len(), 3);
    assert_eq!(
        deliveries.claim(64, &claim).await.unwrap(),
        [],
        "what is broken is held too: it is no busy loop"
    );
    let mut request = PageRequest { limit: 2, cursor: None };
    let mut listed = Vec::new();
    loop {
        let page = deliveries.list(Uuid::from_u128(1), &request).await.unwrap();
        listed.push(page.data.len());
        request.cursor = page.next_cursor;
        if request.cursor.is_none() {
            break;
        }
    }
    assert_eq!(listed, [1, 1, 1], "every page is told of");
    rig.end().await;
}

#[tokio::test]
async fn a_broken_dead_letter_keeps_no_other_back() {
    let rig = Rig::new().await;
    rig.sql(
        "insert into dead_letters (id, source, reason, detail, attempts, created_at, marked_at, headers, body)
        select gen_random_uuid(), 'items', 'undecodable', '', 0, now(), now(),
            case n when 2 then '{\"a\": 1}' else '{}' end::json, ''
        from generate_series(1, 3) n",
    )
    .await;
    let port = rig.store.dead_letters();
    let token = LeaseToken(Uuid::from_u128(9));
    let lease = std::time::Duration::from_secs(60);
    let claimed = port.claim(DeadLetterSource::Items, 10, token, at(1), lease).await.unwrap();
    assert_eq!(claimed.len(), 2);
    let listed = port.list(&DeadLetterSelection::default(), &PageRequest::default()).await.unwrap();
    assert_eq!((listed.data.len(), listed.next_cursor), (2, None));
    rig.end().await;
}

/// Changes of a good row that leave one that no server reads.
const BROKEN: [(&str, &str, &str); 11] = [
    ("subscriptions", "generation = -1", "generation_is_not_negative"),
    ("notifications", "round = -1", "counts_are_not_negative"),
    ("notifications", "planned = -1", "counts_are_not_negative"),
    ("deliveries", "round = -1", "counts_are_not_negative"),
    ("deliveries", "attempts = -1", "counts_are_not_negative"),
    ("deliveries", "unknowns = -1", "counts_are_not_negative"),
    ("deliveries", "topic = ''", "topic_is_1_to_40_bytes"),
    ("dead_letters", "attempts = -1", "counts_are_not_negative"),
    ("dead_letters", "headers = '[]'", "headers_are_a_json_object"),
    ("dead_letters", "about = gen_random_uuid()", "the_key_is_whole"),
    ("dead_letters", "source = 'elsewhere'", "source_is_one_of_four"),
];

#[tokio::test]
async fn a_hand_cannot_break_what_a_check_knows() {
    let rig = Rig::new().await;
    rig.sql(
        "insert into subscriptions (id, topic, email, filter, state, generation, created_at, requested_at)
            values (gen_random_uuid(), 'messages', 'a@example.com', '{}', 'confirmed', 1, now(), now());
        insert into notifications (item, round, topic, captured_at, published_at, finished, planned)
            values (gen_random_uuid(), 0, 'messages', now(), now(), true, 1);
        insert into deliveries (about, subscription, round, kind, topic, state, due_at, created_at)
            values (gen_random_uuid(), gen_random_uuid(), 0, 'item', 'messages', 'pending', now(), now());
        insert into dead_letters (id, source, reason, detail, attempts, created_at, headers, body)
            values (gen_random_uuid(), 'items', 'undecodable', '', 0, now(), '{}', '')",
    )
    .await;
    for (table, change, constraint) in BROKEN {
        let refused = rig.try_sql(&format!("update {table} set {change}")).await.unwrap_err();
        assert!(refused.contains(constraint), "{table}: {change}: {refused}");
    }
    rig.end().await;
}

/// A letter that were refused would be written again without end.
#[tokio::test]
async fn no_dead_letter_is_refused() {
    let rig = Rig::new().await;
    let port = rig.store.dead_letters();
    let every: String = (0..=0x2_ffff).chain(0xf_fff0..=0x10_ffff).filter_map(char::from_u32).collect();
    let texts = [every.clone(), format!("\u{1}{every}"), String::new(), "\0".to_owned()];
    let key = DeliveryKey {
        about: Uuid::nil(),
        subscription: SubscriptionId(Uuid::max()),
        round: u32::try_from(i32::MAX).unwrap(),
    };
    let letters: Vec<_> = (0..)
        .zip(&texts)
        .map(|(number, text)| DeadLetter {
            id: DeadLetterId(Uuid::from_u128(number)),
            source: DeadLetterSource::ALL[usize::try_from(number).unwrap()],
            topic: None,
            message_id: Some(Uuid::max()),
            delivery: (number % 2 == 0).then_some(key),
            reason: text.clone(),
            detail: text.clone(),
            headers: [(text.clone(), text.clone())].into(),
            body: (0..=255).collect::<Vec<u8>>().into(),
            attempts: key.round,
            created_at: if number == 0 { Timestamp::default() } else { Timestamp::MAX },
            marked_at: Some(Timestamp::MAX),
        })
        .collect();
    port.put(letters.clone()).await.unwrap();
    let page = port.list(&DeadLetterSelection::default(), &PageRequest::default()).await.unwrap();
    let mut listed = page.data;
    listed.sort_by_key(|letter| letter.id);
    assert!(listed == letters, "each comes back as it was");
    // Longer than any index or page of the server would take, and counts that it has no number for.
    let long = "é".repeat(2_000_000);
    let large = DeadLetter {
        id: DeadLetterId(Uuid::from_u128(9)),
        reason: long.clone(),
        headers: [(long.clone(), long)].into(),
        attempts: u32::MAX,
        delivery: Some(DeliveryKey { round: u32::MAX, ..key }),
        ..letters[0].clone()
    };
    port.put(vec![large]).await.unwrap();
    assert_eq!(rig.sql("select count(*) from dead_letters").await, "5");
    rig.end().await;
}

#[tokio::test]
async fn a_dead_letter_keeps_what_no_text_of_the_server_can_hold() {
    let rig = Rig::new().await;
    let port = rig.store.dead_letters();
    let letter = DeadLetter {
        id: DeadLetterId(Uuid::from_u128(7)),
        source: DeadLetterSource::Items,
        topic: None,
        message_id: None,
        delivery: None,
        reason: "odd\0reason".to_owned(),
        detail: "a \0 NUL, and \u{1}".to_owned(),
        headers: [("na\0me".to_owned(), "val\0ue \u{1} é".to_owned())].into(),
        body: bytes::Bytes::from_static(b"\0\xff\xfe body"),
        attempts: 3,
        created_at: at(1),
        marked_at: None,
    };
    port.put(vec![letter.clone()]).await.unwrap();
    let listed = port.list(&DeadLetterSelection::default(), &PageRequest::default()).await.unwrap();
    assert_eq!(listed.data, std::slice::from_ref(&letter));
    let by_reason =
        DeadLetterSelection { reason: Some(letter.reason.clone()), ..DeadLetterSelection::default() };
    assert_eq!(port.count(&by_reason).await.unwrap(), 1);
    assert_eq!(port.depths().await.unwrap()[0].reason, letter.reason);
    assert_eq!(port.discard(&by_reason).await.unwrap(), 1);
    rig.end().await;
}
