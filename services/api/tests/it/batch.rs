//! NDJSON batches.

use axum::http::{Method, StatusCode};
use serde_json::json;
use tidings_domain::{Error, ports::Queue};

use crate::{
    publish::stubbed,
    world::{World, epoch, masked},
};

const PATH: &str = "/v1/topics/messages/messages";
const NDJSON: &str = "application/x-ndjson";

#[tokio::test(start_paused = true)]
async fn one_bad_line_among_a_thousand() {
    let world = World::new();
    let line = |at: usize| match at {
        500 => "{\"message\": \"x\", oops}\n".to_owned(),
        at => format!("{{\"message\": \"number {at}\"}}\n"),
    };
    let reply = world.post(PATH, NDJSON, (1..=1_000).map(line).collect::<String>()).await;
    assert_eq!(reply.status, StatusCode::OK);
    let json = reply.json();
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 1_000);
    assert_eq!(results.iter().filter(|result| result["id"].is_string()).count(), 999);
    assert_eq!(results.iter().zip(1..).filter(|(result, line)| result["line"] == *line).count(), 1_000);
    let id = results[0]["id"].as_str().unwrap();
    assert_eq!(
        results[0],
        json!({
            "line": 1,
            "id": id,
            "topic": "messages",
            "accepted_at": epoch().to_string(),
            "status_url": format!("/v1/messages/{id}"),
        })
    );
    assert_eq!(
        results[499],
        json!({
            "line": 500,
            "problem": {
                "type": "urn:tidings:problem:malformed-json",
                "title": "Not JSON",
                "status": 400,
                "detail": "key must be a string at line 1 column 18",
                "mend": "check what stands at that line and column",
                "line": 1,
                "column": 18,
            }
        })
    );
    let queued = world.queued().await;
    assert_eq!(queued.len(), 999);
    assert_eq!(
        (&*queued[0].envelope.body, &*queued[998].envelope.body),
        (&b"number 1"[..], &b"number 1000"[..])
    );
}

#[tokio::test(start_paused = true)]
async fn each_line_has_its_own_key() {
    let world = World::new();
    let body = "{\"message\": \"a\", \"idempotency_key\": \"k\"}\n\
                {\"message\": \"a\", \"idempotency_key\": \"k\"}\n\
                {\"message\": \"b\", \"idempotency_key\": \"k\"}\n\
                {\"message\": \"c\", \"idempotency_key\": \"\"}\n\
                {\"message\": \"é\"}\n\n";
    let reply = world.post(PATH, NDJSON, body).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.text());
    let results = reply.json()["results"].clone();
    assert_eq!(results[0]["id"], results[1]["id"]);
    assert_eq!(results[2]["problem"]["type"], "urn:tidings:problem:another-body");
    assert_eq!(results[2]["problem"]["id"], results[0]["id"]);
    assert_eq!(results[3]["problem"]["type"], "urn:tidings:problem:bad-idempotency-key");
    assert!(results[4]["id"].is_string());
    let single = world.call(Method::POST, PATH, &[("idempotency-key", "k")], "a").await;
    assert_eq!(single.json()["id"], results[0]["id"], "a key means the same in a batch and alone");
    assert_eq!(world.memory.depth(Queue::Items), 4);
}

#[tokio::test(start_paused = true)]
async fn the_whole_fails_by_size_count_key_and_topic() {
    let world = World::new();
    let line = "{\"message\": \"x\"}\n";
    assert_eq!(world.post(PATH, NDJSON, line.repeat(1_001)).await.problem(), "too-many-lines");
    let large = format!("{{\"message\": \"{}\"}}\n", "x".repeat(200_000)).repeat(22);
    let reply = world.post(PATH, NDJSON, large).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::PAYLOAD_TOO_LARGE, "too-large"));
    assert_eq!(world.post(PATH, NDJSON, "\n \n").await.problem(), "empty");
    assert_eq!(world.post("/v1/topics/none/messages", NDJSON, line).await.problem(), "unknown-topic");
    let headers = [("content-type", NDJSON), ("idempotency-key", "k")];
    assert_eq!(world.call(Method::POST, PATH, &headers, line).await.problem(), "bad-idempotency-key");
    assert_eq!(world.memory.depth(Queue::Items), 0);
    // All lines are bad: that is still an answer to each.
    let reply = world.post(PATH, NDJSON, "{}\n[]\n").await;
    assert_eq!((reply.status, reply.json()["results"].as_array().unwrap().len()), (StatusCode::OK, 2));
}

#[tokio::test(start_paused = true)]
async fn n_messages_cost_n() {
    let world = World::settings(|settings| {
        settings.publish_per_second = 1;
        settings.publish_burst = 10;
    });
    let line = "{\"message\": \"x\"}\n";
    assert_eq!(world.post(PATH, NDJSON, line.repeat(8)).await.status, StatusCode::OK);
    let reply = world.post(PATH, NDJSON, line.repeat(5)).await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::TOO_MANY_REQUESTS, "3"));
    assert_eq!(world.memory.depth(Queue::Items), 8, "nothing of it was taken");
}

#[tokio::test(start_paused = true)]
async fn an_unconfirmed_line_is_a_problem_with_its_id() {
    let world = stubbed(|at| Some(if at == 1 { Err(Error::unknown("no confirm")) } else { Ok(()) }));
    let reply = world.post(PATH, NDJSON, "{\"message\": \"x\"}\n".repeat(3)).await;
    assert_eq!(reply.status, StatusCode::OK);
    let results = reply.json()["results"].clone();
    assert!(results[0]["id"].is_string() && results[2]["id"].is_string());
    assert_eq!(results[1]["problem"]["type"], "urn:tidings:problem:outcome-unknown");
    assert!(results[1]["problem"]["id"].is_string());

    let world = stubbed(|_| Some(Err(Error::unavailable("away"))));
    let reply = world.post(PATH, NDJSON, "{\"message\": \"x\"}\n{}\n").await;
    assert_eq!((reply.status, reply.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert_eq!(reply.problem(), "not-accepted");
    let results = masked(reply.json()["results"].clone(), &["id"]);
    assert_eq!(results[0]["problem"]["id"], "<id>");
    assert_eq!(results[1]["problem"]["type"], "urn:tidings:problem:missing-field");
}
