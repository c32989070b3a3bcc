//! A NUL by every way in: refused, or a dead letter that takes no neighbour along.

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use super::{
    super::stack::{Stack, until},
    load::Load,
};

/// `a`, NUL, `b` in Base64.
const BODY: &str = "YQBi";

/// Has to be refused, with a reason for people.
async fn refused(stack: &Stack, what: &str, request: RequestBuilder) {
    let answer = stack.answer(request).await;
    assert!(answer.status.is_client_error(), "{what}: {answer:?}");
    assert!(!answer.problem().is_empty(), "{what}");
}

#[tokio::test]
async fn a_nul_over_http_is_refused() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    let post = || stack.request(Method::POST, "/v1/topics/messages/messages");
    let text = |body: &'static [u8]| post().header("content-type", "text/plain").body(body);
    refused(&stack, "text", text(b"a\0b")).await;
    refused(&stack, "only a NUL", text(b"\0")).await;
    let old = stack.request(Method::POST, "/publishtopic").body(&b"a\0b"[..]);
    refused(&stack, "the old path", old).await;
    let raw = post().header("content-type", "application/json").body(&b"{\"message\":\"a\0b\"}"[..]);
    refused(&stack, "a raw one in JSON", raw).await;
    for body in [
        json!({ "message": "a\0b" }),
        json!({ "message": "a", "subject": "a\0b" }),
        json!({ "message": "a", "attributes": { "name": "a\0b" } }),
        json!({ "message": "a", "attributes": { "name": ["a", "\0"] } }),
        json!({ "message": "a", "attributes": { "a\0b": "value" } }),
    ] {
        refused(&stack, &body.to_string(), post().json(&body)).await;
    }
    let subscribe = || stack.request(Method::POST, "/v1/topics/messages/subscriptions");
    for body in [
        json!({ "email": "a\0@example.com" }),
        json!({ "email": "a@example.com", "filter": { "a": ["\0"] } }),
    ] {
        refused(&stack, &body.to_string(), subscribe().json(&body)).await;
    }
    let topic = stack.request(Method::PUT, "/v1/topics/other").json(&json!({ "subject": "a\0b" }));
    refused(&stack, "a topic's subject", topic).await;
    refused(&stack, "a topic's name", stack.request(Method::PUT, "/v1/topics/a%00b").json(&json!({}))).await;

    // In a batch its neighbours go on.
    let lines = [
        json!({ "message": "the neighbour before" }),
        json!({ "message": "a\0b" }),
        json!({ "message": "a", "idempotency_key": "a\0b" }),
        json!({ "message": "the neighbour after" }),
    ];
    let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let batch = stack.ok(post().header("content-type", "application/x-ndjson").body(lines)).await;
    let results = batch["results"].as_array().unwrap();
    let problems: Vec<bool> = results.iter().map(|result| result["id"].is_null()).collect();
    assert_eq!(problems, [false, true, true, false], "{batch:#}");

    let mut ledger = load.end().await;
    ledger.add(results[0]["id"].as_str().unwrap(), "the neighbour before");
    ledger.add(results[3]["id"].as_str().unwrap(), "the neighbour after");
    let figures = ledger.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
}

/// What a foreign client publishes, by the management.
async fn publish(stack: &Stack, exchange: &str, properties: Value, payload: &str) {
    let vhost = stack.amqp.rsplit('/').next().unwrap();
    let management = stack.servers.rabbitmq.management_url();
    let url = format!("{management}/api/exchanges/{vhost}/{}/publish", stack.name(exchange));
    let body = json!({ "properties": properties, "routing_key": "", "payload": payload, "payload_encoding": "base64" });
    let told: Value = stack.ok(stack.client.post(url).json(&body)).await;
    assert_eq!(told["routed"], true, "{told}");
}

#[tokio::test]
async fn a_nul_over_amqp_is_a_dead_letter_and_takes_no_neighbour_along() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    let good = "Z29vZA==";
    let foreign = [
        (json!({ "message_id": "body" }), BODY),
        (json!({ "message_id": "subject", "headers": { "subject": "a\0b" } }), good),
        (json!({ "message_id": "attribute", "headers": { "attributes": "{\"a\":\"\\u0000\"}" } }), good),
        (json!({ "message_id": "name", "headers": { "attributes": "{\"\\u0000\":1}" } }), good),
        (json!({ "message_id": "raw attribute", "headers": { "attributes": "{\"a\":\"\0\"}" } }), good),
        (json!({ "message_id": "topic", "headers": { "topic": "messages\0" } }), good),
        // Without an id that is one there is none.
        (json!({ "headers": { "id": "\0" } }), BODY),
    ];
    let count = foreign.len();
    for (properties, payload) in foreign {
        load.until_accepted_more(3).await;
        publish(&stack, "topic-messages", properties, payload).await;
    }
    publish(&stack, "notifications", json!({ "message_id": "notification" }), BODY).await;
    until("all of them are dead letters", async || stack.dead_letters().await.len() > count).await;
    load.until_accepted_more(20).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
    let of = |source: &str| figures.dead_letters.iter().filter(|letter| letter["queue"] == source).count();
    assert_eq!((of("items"), of("mail")), (count, 1), "{:#?}", figures.dead_letters);
    for letter in &figures.dead_letters {
        assert!(letter["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{letter:#}");
    }
    // Run again they are dead letters again.
    let redrive = stack.request(Method::POST, "/v1/dead-letters/redrive");
    stack.ok(redrive.json(&json!({ "queue": "items" }))).await;
    until("they were run again", async || {
        let letters = stack.dead_letters().await;
        letters.len() == count + 1 && letters.iter().all(|letter| letter["marked_at"].is_null())
    })
    .await;
    assert_eq!(stack.psql("select count(*) from items").await, figures.accepted.to_string());
}

#[tokio::test]
async fn a_nul_by_sql_is_refused() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    let name = stack.database.rsplit('/').next().unwrap().split('?').next().unwrap();
    for columns in [
        "(topic, message) values ('messages', E'a\\000b')",
        "(topic, message) values ('messages', 'a' || chr(0))",
        "(topic, message) values ('messages', convert_from('\\x610062'::bytea, 'UTF8'))",
        "(topic, message, subject) values ('messages', 'a', E'\\000')",
        r#"(topic, message, attributes) values ('messages', 'a', '{"a":"\u0000"}')"#,
        r#"(topic, message, attributes) values ('messages', 'a', '{"a":["b","\u0000"]}')"#,
        r#"(topic, message, attributes) values ('messages', 'a', '{"\u0000":1}')"#,
    ] {
        let written = stack.servers.postgres.try_psql(name, &format!("insert into items {columns}")).await;
        assert!(written.is_err(), "{columns} is taken");
    }
    let insert = "insert into items (topic, message) values ('messages', 'the neighbour') returning id";
    let id = stack.psql(insert).await;
    let mut ledger = load.end().await;
    ledger.add(&id, "the neighbour");
    let figures = ledger.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}
