//! Dead letters.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use serde_json::json;
use tidings_domain::{
    dead_letter::{DeadLetter, DeadLetterSource},
    id::DeadLetterId,
};

use crate::world::{World, epoch, messages};

fn letter(number: u128, source: DeadLetterSource, reason: &str) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId(uuid::Uuid::from_u128(number)),
        source,
        topic: Some(messages()),
        message_id: Some(uuid::Uuid::from_u128(100 + number)),
        delivery: None,
        reason: reason.into(),
        detail: "why".into(),
        headers: BTreeMap::from([("topic".into(), "messages".into())]),
        body: axum::body::Bytes::from_static(b"a\xffb"),
        attempts: 3,
        created_at: epoch().plus(std::time::Duration::from_secs(number.try_into().unwrap())),
        marked_at: None,
    }
}

async fn world() -> World {
    let world = World::new();
    let letters = vec![
        letter(1, DeadLetterSource::Items, "conflict"),
        letter(2, DeadLetterSource::Items, "undecodable"),
        letter(3, DeadLetterSource::Deliveries, "refused"),
    ];
    world.memory.dead_letters().put(letters).await.unwrap();
    world
}

#[tokio::test(start_paused = true)]
async fn they_are_listed_with_their_reason() {
    let world = world().await;
    for _ in 0..100 {
        assert_eq!(world.get("/v1/dead-letters").await.json()["data"].as_array().unwrap().len(), 3);
    }
    let json = world.get("/v1/dead-letters?queue=items&reason=conflict&topic=messages").await.json();
    assert_eq!(
        json,
        json!({
            "data": [{
                "id": "00000000-0000-0000-0000-000000000001",
                "queue": "items",
                "topic": "messages",
                "message_id": "00000000-0000-0000-0000-000000000065",
                "reason": "conflict",
                "detail": "why",
                "headers": {"topic": "messages"},
                "body": "a\u{fffd}b",
                "body_bytes": 3,
                "attempts": 3,
                "created_at": "2030-01-01T00:00:01.000Z",
            }],
            "next_cursor": null,
        })
    );
    let ids = "00000000-0000-0000-0000-000000000001,00000000-0000-0000-0000-000000000003";
    let json = world.get(&format!("/v1/dead-letters?ids={ids}")).await.json();
    assert_eq!(json["data"].as_array().unwrap().len(), 2);
    let json = world.get("/v1/dead-letters?message_id=00000000-0000-0000-0000-000000000066").await.json();
    assert_eq!(json["data"][0]["reason"], "undecodable");
}

#[tokio::test(start_paused = true)]
async fn a_selection_is_redriven_or_discarded_and_a_dry_run_counts() {
    let world = world().await;
    let post = |act: &'static str, body: serde_json::Value| {
        let world = &world;
        async move { world.post(&format!("/v1/dead-letters/{act}"), "application/json", body.to_string()).await }
    };
    let items = json!({"queue": "items", "dry_run": true});
    assert_eq!(post("redrive", items.clone()).await.json(), json!({"count": 2, "dry_run": true}));
    assert_eq!(post("discard", items).await.json(), json!({"count": 2, "dry_run": true}));
    assert!(!world.get("/v1/dead-letters").await.text().contains("marked_at"));

    let items = json!({"queue": "items"});
    assert_eq!(post("redrive", items.clone()).await.json(), json!({"count": 2, "dry_run": false}));
    assert_eq!(post("redrive", items).await.json(), json!({"count": 0, "dry_run": false}));
    let json = world.get("/v1/dead-letters?queue=items").await.json();
    assert!(json["data"][0]["marked_at"].is_string());

    let one = json!({"ids": ["00000000-0000-0000-0000-000000000003"]});
    assert_eq!(post("discard", one).await.json(), json!({"count": 1, "dry_run": false}));
    let reply = post("discard", json!({})).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::BAD_REQUEST, "no-selection"));
    assert_eq!(post("discard", json!({"ids": ["x"]})).await.problem(), "bad-id");
    assert_eq!(post("discard", json!({"queue": "x", "all": true})).await.problem(), "bad-parameter");
    assert_eq!(post("discard", json!({"everything": true})).await.problem(), "unknown-field");
    assert_eq!(post("discard", json!({"all": true})).await.json()["count"], 2);
    assert_eq!(world.get("/v1/dead-letters").await.json()["data"], json!([]));
}
