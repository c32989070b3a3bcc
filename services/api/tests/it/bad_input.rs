//! Bad input: what each gets, and that nothing of it is published.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Method, StatusCode},
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use tidings_domain::ports::Queue;

use crate::world::{Reply, World};

const PATH: &str = "/v1/topics/messages/messages";
const MAX: usize = 255 * 1024;

#[track_caller]
fn assert_problem(reply: &Reply, status: u16, name: &str, detail: &str) {
    assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (status, name), "{}", reply.text());
    assert_eq!(reply.json()["detail"], detail);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_carried_is_refused_with_its_reason() {
    let world = World::new();
    let text = |body: &'static [u8]| world.post(PATH, "text/plain", body);
    assert_problem(&text(b"").await, 400, "empty", "the text is empty: send at least one byte");
    let reply = text(b"ab\xff\xfe").await;
    assert_problem(&reply, 400, "not-utf8", "the text is not UTF-8: byte 2 begins no character");
    let reply = text(b"a\x00b").await;
    assert_problem(
        &reply,
        400,
        "control-character",
        "the text holds U+0000 at byte 1: control characters other than tab, CR and LF, and U+FFFE and U+FFFF, cannot be carried",
    );
    assert_eq!(reply.json()["offset"], 1);
    for bad in ["a\u{1b}[31m", "\u{8}", "\u{ffff}"] {
        assert_eq!(text(bad.as_bytes()).await.problem(), "control-character", "{bad:?}");
    }
    assert_eq!(world.memory.depth(Queue::Items), 0);
    assert_eq!(text("]]>\t\r\n<![CDATA[ \u{85} ok".as_bytes()).await.status, StatusCode::ACCEPTED);
    assert_eq!(world.memory.depth(Queue::Items), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_read_to_its_end_and_refused() {
    let world = World::new();
    assert_eq!(world.post(PATH, "text/plain", "x".repeat(MAX)).await.status, StatusCode::ACCEPTED);
    let reply = world.post(PATH, "text/plain", "x".repeat(MAX + 1)).await;
    let detail = "the body has more than the 261120 bytes that are taken here";
    assert_problem(&reply, 413, "too-large", detail);
    assert_eq!(reply.json()["limit_bytes"], MAX);
    assert_eq!(reply.header("connection"), "", "the connection stays usable");

    let chunks = stream::iter(0..40).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 * 1024])));
    let left = Arc::new(AtomicUsize::new(40));
    let counted = {
        let left = Arc::clone(&left);
        chunks.inspect(move |_| {
            left.fetch_sub(1, Relaxed);
        })
    };
    let length = (40 * 64 * 1024).to_string();
    let headers = [("content-type", "text/plain"), ("content-length", length.as_str())];
    let reply = world.call(Method::POST, PATH, &headers, Body::from_stream(counted)).await;
    let detail = "the body has 2621440 bytes, and at most 261120 are taken here";
    assert_problem(&reply, 413, "too-large", detail);
    assert_eq!(left.load(Relaxed), 0, "its rest was read");

    let length = (17 * 1024 * 1024).to_string();
    let headers = [("content-type", "text/plain"), ("content-length", length.as_str())];
    let reply = world.call(Method::POST, PATH, &headers, vec![b'x'; 17 * 1024 * 1024]).await;
    assert_eq!((reply.problem().as_str(), reply.header("connection")), ("too-large", "close"));
    let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 * 1024])));
    let reply = world.post(PATH, "text/plain", Body::from_stream(endless)).await;
    assert_eq!((reply.problem().as_str(), reply.header("connection")), ("too-large", "close"));
    let headers = [("content-type", "text/plain"), ("content-length", "300000"), ("expect", "100-continue")];
    let reply = world.call(Method::POST, PATH, &headers, "never read").await;
    assert_eq!((reply.problem().as_str(), reply.header("connection")), ("too-large", "close"));

    // Small enough as a body, too large with what stands beside it.
    let body = format!(r#"{{"message": "{}", "subject": "S"}}"#, "x".repeat(MAX));
    let reply = world.post(PATH, "application/json", body).await;
    let detail = "body, subject and attributes together take 261121 bytes, at most 261120 are carried";
    assert_problem(&reply, 413, "too-large", detail);
    // Escapes do not count: what counts is the text.
    let body = format!(r#"{{"message": "{}"}}"#, r"\u00e9".repeat(MAX / 2));
    assert_eq!(world.post(PATH, "application/json", body).await.status, StatusCode::ACCEPTED);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_refused_early_is_read_to_its_end_too() {
    let world = World::new();
    for (path, content_type) in
        [("/v1/topics/none/messages", "text/plain"), (PATH, "image/png"), ("/nothing", "a/b")]
    {
        let left = Arc::new(AtomicUsize::new(3));
        let counted = Arc::clone(&left);
        let chunks = stream::iter(0..3).map(move |_| {
            counted.fetch_sub(1, Relaxed);
            Ok::<_, std::io::Error>(Bytes::from(vec![b'x'; 64 * 1024]))
        });
        let reply = world.post(path, content_type, Body::from_stream(chunks)).await;
        assert!(reply.status.is_client_error());
        assert_eq!((left.load(Relaxed), reply.header("connection")), (0, ""), "{path} {content_type}");
    }
    let pending = stream::pending::<Result<Bytes, std::io::Error>>();
    let began = tokio::time::Instant::now();
    let reply = world.post("/nothing", "text/plain", Body::from_stream(pending)).await;
    assert_eq!((reply.problem().as_str(), reply.header("connection")), ("no-such-path", "close"));
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_trickles_is_given_up() {
    let world = World::new();
    let bytes = stream::iter(0..1_000).then(|_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, std::io::Error>(Bytes::from_static(b"x"))
    });
    let began = tokio::time::Instant::now();
    let reply = world.post(PATH, "text/plain", Body::from_stream(bytes)).await;
    let detail = "the body did not arrive in the time that a body may take: nothing was done";
    assert_problem(&reply, 408, "too-slow", detail);
    assert_eq!((reply.header("connection"), began.elapsed().as_secs()), ("close", 10));
    let broken = stream::iter([Ok(Bytes::from_static(b"x")), Err(std::io::Error::other("reset"))]);
    assert_eq!(world.post(PATH, "text/plain", Body::from_stream(broken)).await.problem(), "cut-off");
    assert_eq!(world.memory.depth(Queue::Items), 0);
}

#[tokio::test(start_paused = true)]
async fn topics_that_are_not() {
    let world = World::new();
    let reply = world.post("/v1/topics/orders/messages", "text/plain", "x").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(
        reply.json(),
        json!({
            "type": "urn:tidings:problem:unknown-topic",
            "title": "No such topic",
            "status": 404,
            "detail": "there is no topic orders",
            "mend": "make it first: PUT /v1/topics/orders",
        })
    );
    let reply = world.post("/v1/topics/Orders/messages", "text/plain", "x").await;
    assert_problem(
        &reply,
        400,
        "bad-topic-name",
        "\"Orders\" is none: a topic name is 1 to 40 characters: a lower-case letter, then lower-case letters, digits or hyphens",
    );
    for name in ["%ff", "a%2fb", "a%00", &"a".repeat(41)] {
        let reply = world.post(&format!("/v1/topics/{name}/messages"), "text/plain", "x").await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{name}");
        reply.problem();
    }
}

#[tokio::test(start_paused = true)]
async fn types_that_are_not_taken() {
    let world = World::new();
    let reply = world.post(PATH, "application/xml", "<x/>").await;
    assert_eq!(reply.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(
        reply.json(),
        json!({
            "type": "urn:tidings:problem:content-type",
            "title": "The content type is not taken",
            "status": 415,
            "detail": "the content type is \"application/xml\"",
            "mend": "send text/plain (or any text/*) in UTF-8, application/json with {\"message\": ...}, or \
                     application/x-ndjson with one such object a line",
            "supported": ["text/*; charset=utf-8", "application/json", "application/x-ndjson"],
        })
    );
    let reply = world.post(PATH, "text/plain; charset=iso-8859-1", "x").await;
    assert_problem(&reply, 415, "content-type", "the charset is \"iso-8859-1\"");
    let reply = world.post("/publishtopic", "text/plain; charset=utf-16", "x").await;
    assert_problem(&reply, 415, "content-type", "the charset is \"utf-16\"");
    let headers = [("content-type", "text/plain"), ("content-encoding", "gzip")];
    assert_eq!(world.call(Method::POST, PATH, &headers, "x").await.problem(), "content-encoding");
    let reply = world.post("/v1/topics/messages/subscriptions", "text/plain", "{}").await;
    assert_problem(&reply, 415, "content-type", "the content type is \"text/plain\"");
    assert_eq!(world.memory.depth(Queue::Items), 0);
}

#[tokio::test(start_paused = true)]
async fn json_that_is_wrong_is_told_where() {
    let world = World::new();
    let post = |body: &'static str| world.post(PATH, "application/json", body);
    let reply = post("{\n  \"message\": \"x\",\n  \"subject\": oops\n}").await;
    assert_eq!(reply.status, StatusCode::BAD_REQUEST);
    assert_eq!(
        reply.json(),
        json!({
            "type": "urn:tidings:problem:malformed-json",
            "title": "Not JSON",
            "status": 400,
            "detail": "expected value at line 3 column 14",
            "mend": "check what stands at that line and column",
            "line": 3,
            "column": 14,
        })
    );
    let reply = post(r#"{"message": "x", "titel": "y"}"#).await;
    assert_problem(
        &reply,
        400,
        "unknown-field",
        "unknown field `titel`, expected one of `message`, `subject`, `attributes` at line 1 column 24",
    );
    assert_eq!(reply.json()["field"], "titel");
    assert_eq!(post(r#"{"subject": "x"}"#).await.problem(), "missing-field");
    let reply = post(r#"{"message": "x", "subject": "a\r\nBcc: b@example.com"}"#).await;
    assert_problem(&reply, 400, "bad-subject", "a subject has no line breaks");
    let long = format!(r#"{{"message": "x", "subject": "{}"}}"#, "ä".repeat(100));
    let reply = world.post(PATH, "application/json", long).await;
    assert_problem(&reply, 400, "bad-subject", "a subject has at most 99 characters, this one 100");
    let reply = post(r#"{"message": "x", "attributes": {"a": {"b": 1}}}"#).await;
    let detail = "attribute \"a\": a value is a string, a number, a boolean or a list of these";
    assert_problem(&reply, 400, "bad-attributes", detail);
    for (body, name) in [
        ("", "malformed-json"),
        ("nope", "malformed-json"),
        (r#"{"message": "x"} trailing"#, "malformed-json"),
        (r#""just a string""#, "wrong-shape"),
        (r#"{"message": "\u0007"}"#, "control-character"),
    ] {
        assert_eq!(post(body).await.problem(), name, "{body}");
    }
    let deep = format!(r#"{{"message": {}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    assert_eq!(world.post(PATH, "application/json", deep).await.status, StatusCode::ACCEPTED);
    let deep = format!(r#"{{"message": 1, "attributes": {}{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
    assert_eq!(world.post(PATH, "application/json", deep).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(world.memory.depth(Queue::Items), 1);
}

#[tokio::test(start_paused = true)]
async fn parameters_that_are_wrong_are_named() {
    let world = World::new();
    for (path, name, detail) in [
        ("/v1/messages?limit=0", "bad-parameter", "limit is 1 to 250, not 0"),
        ("/v1/messages?limit=251", "bad-parameter", "limit is 1 to 250, not 251"),
        (
            "/v1/messages?since=yesterday",
            "bad-parameter",
            "since is a time such as 2026-01-31T12:00:00Z (RFC 3339), not \"yesterday\"",
        ),
        (
            "/v1/messages/018f0000-0000-7000-8000-000000000000?wait=soon",
            "bad-parameter",
            "wait is a time such as 30s or 500ms, not \"soon\"",
        ),
        (
            "/v1/messages/018f0000-0000-7000-8000-000000000000?wait=1s&after=done",
            "bad-parameter",
            "after is accepted, stored or notified, not \"done\"",
        ),
        ("/v1/messages/nope", "bad-id", "\"nope\" is no id of this kind"),
        (
            "/v1/subscriptions?state=gone",
            "bad-parameter",
            "state is pending, confirmed or unsubscribed, not \"gone\"",
        ),
        (
            "/v1/dead-letters?queue=x",
            "bad-parameter",
            "queue is one of items, changes, mail, deliveries, not \"x\"",
        ),
    ] {
        assert_problem(&world.get(path).await, 400, name, detail);
    }
    for path in
        ["/v1/messages?cursor=x", "/v1/topics?cursor=x", "/v1/messages?limit=ten", "/v1/messages?nope=1"]
    {
        let reply = world.get(path).await;
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{path}");
        reply.problem();
    }
    assert!(world.get("/v1/messages?nope=1").await.text().contains("nope"));
}
