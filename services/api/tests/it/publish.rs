//! Publishing one message.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::http::{Method, StatusCode};
use opentelemetry::{
    global::BoxedTracer,
    metrics::{MeterProvider as _, noop::NoopMeterProvider},
    trace::TracerProvider as _,
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use serde_json::json;
use tidings_domain::{
    Error, Result,
    ports::{Bus, BusCapabilities, BusTopic, Consumer, Queue},
    wire::Envelope,
};
use tidings_memory::Part;
use tidings_runtime::telemetry::Telemetry;

use crate::world::{Setup, World, epoch, masked};

const PATH: &str = "/v1/topics/messages/messages";

#[tokio::test(start_paused = true)]
async fn a_text_is_taken_as_it_is() {
    let world = World::new();
    let text = "hello ]]> <b>&amp;</b> 🎉\r\n\tx";
    let reply = world.post(PATH, "text/markdown; charset=UTF-8", text).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let id = reply.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(
        reply.json(),
        json!({
            "id": id,
            "topic": "messages",
            "accepted_at": epoch().to_string(),
            "status_url": format!("/v1/messages/{id}"),
        })
    );
    assert_eq!(reply.header("location"), format!("/v1/messages/{id}"));
    let queued = world.queued().await;
    assert_eq!(queued.len(), 1);
    let envelope = &queued[0].envelope;
    assert_eq!(envelope.body, text);
    assert_eq!(
        serde_json::to_value(&envelope.headers).unwrap(),
        json!({
            "id": id,
            "topic": "messages",
            "content-type": "text/markdown; charset=UTF-8",
            "accepted-at": epoch().to_string(),
        })
    );
}

#[tokio::test(start_paused = true)]
async fn curl_d_and_no_type_at_all_are_text() {
    let world = World::new();
    world.post(PATH, "application/x-www-form-urlencoded", "a=b&c=%20").await;
    world.call(Method::POST, PATH, &[], "bare").await;
    let queued = world.queued().await;
    let told: Vec<_> = queued
        .iter()
        .map(|received| (&*received.envelope.body, received.envelope.headers["content-type"].as_str()))
        .collect();
    assert_eq!(
        told,
        [(&b"a=b&c=%20"[..], "text/plain; charset=utf-8"), (b"bare", "text/plain; charset=utf-8")]
    );
}

#[tokio::test(start_paused = true)]
async fn json_has_a_subject_and_attributes_beside_the_message() {
    let world = World::new();
    let body = r#"{"message": {"n": 1.50, "s":"é"}, "subject": "Paid", "attributes": {"customer": "acme", "tags": ["a", 1]}}"#;
    let reply = world.post(PATH, "application/json", body).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
    let queued = world.queued().await;
    let envelope = &queued[0].envelope;
    assert_eq!(envelope.body, r#"{"n": 1.50, "s":"é"}"#);
    assert_eq!(envelope.headers["content-type"], "application/json");
    assert_eq!(envelope.headers["subject"], "Paid");
    assert_eq!(envelope.headers["attributes"], r#"{"customer":"acme","tags":["a",1]}"#);
}

#[tokio::test(start_paused = true)]
async fn publishtopic_answers_as_it_always_did() {
    let world = World::new();
    for content_type in ["text/plain", "application/json", "application/x-www-form-urlencoded", "image/x-odd"]
    {
        let reply = world.post("/publishtopic", content_type, r#"{"any": "text"}"#).await;
        assert_eq!(reply.status, StatusCode::OK, "{content_type}");
        assert_eq!(reply.header("content-type"), "application/json");
        assert_eq!(reply.text(), r#""A new message has been published""#);
    }
    assert_eq!(world.memory.depth(Queue::Items), 4);
    let reply = world.get("/publishtopic").await;
    assert_eq!((reply.status, reply.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, "POST"));
    assert_eq!(
        reply.json(),
        json!({
            "type": "urn:tidings:problem:method-not-allowed",
            "title": "The method is not allowed",
            "status": 405,
            "detail": "GET publishes nothing: this path takes POST with the text as its body",
            "mend": "curl -X POST -H 'Content-Type: text/plain' --data 'Hello' <this server>/publishtopic",
        })
    );
}

#[tokio::test(start_paused = true)]
async fn the_same_key_is_the_same_message() {
    let world = World::new();
    let send = |key: &'static str, topic: &'static str, text: &'static str| {
        let path = format!("/v1/topics/{topic}/messages");
        let world = &world;
        async move { world.call(Method::POST, &path, &[("idempotency-key", key)], text).await }
    };
    let first = send("k-1", "messages", "one").await;
    let again = send("k-1", "messages", "one").await;
    assert_eq!((first.status, again.status), (StatusCode::ACCEPTED, StatusCode::ACCEPTED));
    assert_eq!(first.json()["id"], again.json()["id"]);
    assert_eq!(
        world.memory.depth(Queue::Items),
        2,
        "the same never answers by itself: it is published again"
    );

    let other = send("k-1", "messages", "two").await;
    assert_eq!((other.status, other.problem().as_str()), (StatusCode::UNPROCESSABLE_ENTITY, "another-body"));
    assert_eq!(other.json()["id"], first.json()["id"]);
    assert_eq!(world.memory.depth(Queue::Items), 2);
    assert_ne!(send("k-2", "messages", "two").await.json()["id"], first.json()["id"]);

    world.call(Method::PUT, "/v1/topics/orders", &[], "").await;
    let elsewhere = send("k-1", "orders", "one").await;
    assert_eq!(elsewhere.status, StatusCode::ACCEPTED, "a key is its topic's");
    for bad in ["", "x\ty\u{b}"] {
        let request = axum::http::Request::post(PATH).header("idempotency-key", bad.as_bytes());
        let Ok(request) = request.body("x".into()) else { continue };
        assert_eq!(world.send(request).await.problem(), "bad-idempotency-key", "{bad:?}");
    }
    let long = "k".repeat(256);
    let reply = world.call(Method::POST, PATH, &[("idempotency-key", &long)], "x").await;
    assert_eq!(reply.problem(), "bad-idempotency-key");
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    assert_eq!(world.call(Method::POST, PATH, &twice, "x").await.problem(), "bad-idempotency-key");
}

fn tracing() -> (Telemetry, SdkTracerProvider) {
    let provider = SdkTracerProvider::builder().build();
    let tracer = BoxedTracer::new(Box::new(provider.tracer("tidings-api")));
    (Telemetry::new(tracer, NoopMeterProvider::new().meter("tidings")), provider)
}

#[tokio::test(start_paused = true)]
async fn the_clients_trace_goes_on_and_garbage_begins_a_new_one() {
    let (telemetry, _provider) = tracing();
    let world = World::with(Setup { telemetry, ..Setup::default() });
    let came = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for traceparent in [came, "garbage", "00-00000000000000000000000000000000-0000000000000000-00"] {
        let reply = world.call(Method::POST, PATH, &[("traceparent", traceparent)], "x").await;
        assert_eq!(reply.status, StatusCode::ACCEPTED);
    }
    let queued = world.queued().await;
    let sent: Vec<_> =
        queued.iter().map(|received| received.envelope.headers["traceparent"].as_str()).collect();
    assert_eq!(sent[0][3..35], came[3..35], "one trace");
    assert_ne!(sent[0][36..52], came[36..52], "the publish is a span of its own");
    assert_ne!(sent[1][3..35], sent[2][3..35]);

    let world = World::new();
    world.call(Method::POST, PATH, &[("traceparent", "garbage")], "x").await;
    world.call(Method::POST, PATH, &[("traceparent", came)], "x").await;
    let queued = world.queued().await;
    assert_eq!(queued[0].envelope.headers.get("traceparent"), None);
    assert_eq!(queued[1].envelope.headers["traceparent"], came, "without telemetry what came is passed on");
}

/// A bus that answers in one way.
pub(crate) struct Stub(pub(crate) fn(usize) -> Option<Result<()>>);

#[async_trait]
impl Bus for Stub {
    async fn publish(&self, _: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        let mut outcomes = Vec::new();
        for at in 0..batch.len() {
            match (self.0)(at) {
                Some(outcome) => outcomes.push(outcome),
                None => std::future::pending().await,
            }
        }
        outcomes
    }

    async fn consume(&self, _: Queue, _: usize) -> Result<Box<dyn Consumer>> {
        Err(Error::unavailable("a stub"))
    }

    fn capabilities(&self) -> BusCapabilities {
        BusCapabilities { max_batch: 10, max_publish_bytes: 1 << 20, lease: None, release_is_uncounted: true }
    }
}

pub(crate) fn stubbed(outcome: fn(usize) -> Option<Result<()>>) -> World {
    World::with(Setup { bus: Some(Arc::new(Stub(outcome))), ..Setup::default() })
}

#[tokio::test(start_paused = true)]
async fn without_a_confirm_there_is_no_202() {
    let late = |_| Some(Err(Error::unknown("no confirm").with_retry_after(Duration::from_secs(3))));
    let world = stubbed(late);
    let reply = world.call(Method::POST, PATH, &[("idempotency-key", "k")], "x").await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "3"));
    assert_eq!(
        masked(reply.json(), &["id"]),
        json!({
            "type": "urn:tidings:problem:outcome-unknown",
            "title": "Whether it was taken is not known",
            "status": 503,
            "detail": "the broker did not confirm it in time, so it may have been taken or not",
            "mend": "send it again with the same idempotency key after Retry-After: it stays one message",
            "id": "<id>",
        })
    );
    for (outcome, status, problem) in [
        ((|_| Some(Err(Error::transient("nack")))) as fn(usize) -> _, 503, "outcome-unknown"),
        (|_| Some(Err(Error::unavailable("away"))), 503, "not-accepted"),
        (|_| Some(Err(Error::misconfigured("no such binding"))), 503, "not-accepted"),
        (|_| Some(Err(Error::rejected("too large"))), 422, "refused-by-broker"),
        (|_| None, 503, "outcome-unknown"),
    ] {
        let reply = stubbed(outcome).post(PATH, "text/plain", "x").await;
        assert_eq!((reply.status.as_u16(), reply.problem().as_str()), (status, problem));
        assert!(reply.json()["id"].is_string());
        assert_eq!(reply.headers.contains_key("retry-after"), status == 503);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broker_that_hangs_is_given_up_in_time() {
    let world = stubbed(|_| None);
    let began = tokio::time::Instant::now();
    assert_eq!(world.post(PATH, "text/plain", "x").await.problem(), "outcome-unknown");
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_gives_its_key_back() {
    let world = stubbed(|_| Some(Err(Error::rejected("too large"))));
    for text in ["one", "two"] {
        let reply = world.call(Method::POST, PATH, &[("idempotency-key", "k")], text).await;
        assert_eq!(reply.problem(), "refused-by-broker");
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_binding_is_mended_on_the_way() {
    let world = World::new();
    world.publish("before").await;
    world.memory.unbind();
    world.publish("after").await;
    assert_eq!(world.memory.depth(Queue::Items), 2);
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_cannot_be_mended_is_tried_once_for_all() {
    // Declaring goes to the memory, whose broker is away; publishing says that the topic is missing.
    let bus = Some(Arc::new(Stub(|_| Some(Err(Error::not_found("no such exchange"))))) as Arc<dyn Bus>);
    let world = World::with(Setup { bus, runs: false, ..Setup::default() });
    assert_eq!(world.get("/v1/topics").await.status, StatusCode::OK);
    world.memory.set_away(Part::Bus, true);
    let posts = (0..20).map(|_| world.post(PATH, "text/plain", "x"));
    for reply in futures::future::join_all(posts).await {
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "not-accepted")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn accepting_needs_only_the_broker() {
    let world = World::new();
    world.publish("before").await;
    world.memory.set_away(Part::Store, true);
    world.publish("while the store is away").await;
    world.memory.set_away(Part::Bus, true);
    let reply = world.post(PATH, "text/plain", "x").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "not-accepted"));
    world.memory.set_away(Part::Bus, false);
    world.publish("after").await;
    assert_eq!(world.memory.depth(Queue::Items), 3);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_is_too_fast_waits() {
    let world = World::settings(|settings| {
        settings.publish_per_second = 2;
        settings.publish_burst = 3;
    });
    for _ in 0..3 {
        world.publish("x").await;
    }
    let reply = world.post(PATH, "text/plain", "x").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::TOO_MANY_REQUESTS, "too-fast"));
    assert_eq!(reply.header("retry-after"), "1");
    tokio::time::advance(Duration::from_secs(1)).await;
    world.publish("x").await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_500_and_the_next_request_is_served() {
    let world = stubbed(|_| panic!("a planted fault"));
    let reply = world.post(PATH, "text/plain", "x").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::INTERNAL_SERVER_ERROR, "fault"));
    assert!(!reply.text().contains("planted"));
    assert_eq!(world.get("/v1/topics").await.status, StatusCode::OK);
}
