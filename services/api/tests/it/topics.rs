//! Topics.

use axum::http::{Method, StatusCode};
use serde_json::json;
use tidings_domain::topic::TopicName;
use tidings_memory::Part;

use crate::world::{World, epoch};

#[tokio::test(start_paused = true)]
async fn a_topic_is_made_read_listed_and_removed() {
    let world = World::new();
    assert_eq!(world.get("/v1/topics/orders").await.problem(), "unknown-topic");
    let reply = world.call(Method::PUT, "/v1/topics/orders", &[], r#"{"subject": "New order"}"#).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.text());
    let topic = json!({
        "name": "orders",
        "subject": "New order",
        "created_at": epoch().to_string(),
        "subscriptions": {"pending": 0, "confirmed": 0, "unsubscribed": 0},
    });
    assert_eq!(reply.json(), topic);
    assert_eq!(world.get("/v1/topics/orders").await.json(), topic);
    let reply = world.call(Method::PUT, "/v1/topics/orders", &[], "").await;
    assert_eq!((reply.status, &reply.json()["subject"]), (StatusCode::OK, &serde_json::Value::Null));
    let listed = world.get("/v1/topics").await.json();
    assert_eq!(listed["data"].as_array().unwrap().len(), 2);
    let reply = world.post("/v1/topics/orders/messages", "text/plain", "x").await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "it is served at once");

    let subscribe = r#"{"email": "ann@example.com", "confirmed": true}"#;
    let reply = world.post("/v1/topics/orders/subscriptions", "application/json", subscribe).await;
    let id = reply.json()["subscription"]["id"].as_str().unwrap().to_owned();
    assert_eq!(world.get("/v1/topics/orders").await.json()["subscriptions"]["confirmed"], 1);
    let delete = |path: &'static str| world.call(Method::DELETE, path, &[], "");
    let reply = delete("/v1/topics/orders").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::CONFLICT, "has-subscribers"));
    world.call(Method::DELETE, &format!("/v1/subscriptions/{id}"), &[], "").await;
    assert_eq!(delete("/v1/topics/orders").await.status, StatusCode::NO_CONTENT);
    assert_eq!(delete("/v1/topics/orders").await.problem(), "unknown-topic");
    assert_eq!(world.post("/v1/topics/orders/messages", "text/plain", "x").await.problem(), "unknown-topic");
    let reply = delete("/v1/topics/messages").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::CONFLICT, "topic-stays"));
}

#[tokio::test(start_paused = true)]
async fn the_topology_stands_before_the_row() {
    let world = World::new();
    world.publish("reads the catalog").await;
    world.memory.set_away(Part::Bus, true);
    let reply = world.call(Method::PUT, "/v1/topics/orders", &[], "").await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "unavailable"));
    let orders = TopicName::parse("orders").unwrap();
    assert_eq!(world.memory.catalog().topic(&orders).await.unwrap(), None);
    world.memory.set_away(Part::Bus, false);
    world.call(Method::PUT, "/v1/topics/orders", &[], "").await;
    assert_eq!(world.memory.topology().verify(&[orders]).await.unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn bad_subjects_and_fields_make_no_topic() {
    let world = World::new();
    for (body, problem) in [
        (r#"{"subject": "a\nb"}"#, "bad-subject"),
        (r#"{"subject": ""}"#, "bad-subject"),
        (r#"{"title": "a"}"#, "unknown-field"),
        ("{", "malformed-json"),
    ] {
        assert_eq!(world.call(Method::PUT, "/v1/topics/orders", &[], body).await.problem(), problem);
    }
    assert_eq!(world.call(Method::PUT, "/v1/topics/Orders", &[], "").await.problem(), "bad-topic-name");
    assert_eq!(world.memory.catalog().topics().await.unwrap().len(), 1);
}
