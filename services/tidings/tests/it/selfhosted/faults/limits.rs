//! Faults of Redis: it may lose everything at any time.

use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::{
    super::{servers::Servers, stack::Stack},
    load::Load,
};
use crate::harness::Answer;

async fn post(stack: &Stack, key: &str, text: &str) -> Answer {
    let request = stack.request(Method::POST, "/v1/topics/messages/messages");
    let request = request.header("idempotency-key", key).header("content-type", "text/plain");
    stack.answer(request.body(text.to_owned())).await
}

#[tokio::test]
async fn redis_killed_and_flushed_under_posts_with_keys_loses_nothing() {
    // A Redis that is slow since the machine is busy is not this test's fault: one that is gone is seen at once.
    let patient = [("TIDINGS_REDIS_TIMEOUT_MS", "10000")];
    let mut stack = Stack::start_on(Servers::with_own_redis().await, &patient).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    let first = post(&stack, "a key", "kept once").await;
    assert_eq!(first.status, StatusCode::ACCEPTED, "{first:?}");
    let id = first.body["id"].as_str().unwrap().to_owned();
    assert_eq!(post(&stack, "a key", "another text").await.problem(), "another-body");

    let (api, redis) = (stack.process("api"), &stack.servers.redis);
    for _ in 0..2 {
        load.until_accepted_more(30).await;
        redis.flush().await;
        // The same key is the same message, remembered or not.
        let again = post(&stack, "a key", "kept once").await;
        assert_eq!(
            (again.status, again.body["id"].as_str()),
            (StatusCode::ACCEPTED, Some(&*id)),
            "{again:?}"
        );

        load.until_accepted_more(30).await;
        redis.kill().await;
        api.until_state("redis", "degraded").await;
        let report = api.readiness().await;
        assert_eq!(report["ready"], true, "{report:#}");
        load.until_accepted_more(30).await;
        let again = post(&stack, "a key", "kept once").await;
        assert_eq!(
            (again.status, again.body["id"].as_str()),
            (StatusCode::ACCEPTED, Some(&*id)),
            "{again:?}"
        );
        redis.start_again().await;
        api.until_state("redis", "up").await;
    }
    load.until_accepted_more(30).await;
    assert_eq!(load.refused(), 0, "every POST was accepted at once");
    // Nothing remembers what the key was used for: it is taken, and seen to be another when it is stored.
    redis.flush().await;
    stack.stop("api").await;
    stack.up("api").await;
    let other = post(&stack, "a key", "another text").await;
    assert_eq!((other.status, other.body["id"].as_str()), (StatusCode::ACCEPTED, Some(&*id)), "{other:?}");
    super::super::stack::until("it is a dead letter", async || !stack.dead_letters().await.is_empty()).await;

    let mut ledger = load.end().await;
    ledger.add(&id, "kept once");
    let figures = ledger.balances(&stack, 1).await;
    let reasons: Vec<&Value> = figures.dead_letters.iter().map(|letter| &letter["reason"]).collect();
    assert_eq!(reasons, ["conflict"]);
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}
