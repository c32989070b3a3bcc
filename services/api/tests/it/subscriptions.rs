//! Asking for, listing and removing subscriptions.

use axum::http::{Method, StatusCode};
use serde_json::json;
use tidings_api::{AdminKey, Auth};
use tidings_domain::{
    api_key::{ApiKey, KeyHash, Scope},
    id::{ApiKeyId, SubscriptionId},
    page::PageRequest,
};

use crate::world::{World, epoch, masked};

const PATH: &str = "/v1/topics/messages/subscriptions";
const JSON: &str = "application/json";

/// A world with keys, and a key that may subscribe only.
async fn keyed() -> World {
    let world = World::settings(|settings| {
        settings.auth = Auth::Required;
        settings.admin_key = Some(AdminKey::new("root"));
    });
    let key = ApiKey {
        id: ApiKeyId(uuid::Uuid::from_u128(1)),
        hash: KeyHash::of("form"),
        owner: "website".into(),
        scopes: vec![Scope::Subscribe],
        topics: vec![],
        created_at: epoch(),
    };
    world.memory.catalog().put_key(&key).await.unwrap();
    world
}

async fn ask(world: &World, key: &str, body: serde_json::Value) -> crate::world::Reply {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", JSON)];
    world.call(Method::POST, PATH, &headers, body.to_string()).await
}

#[tokio::test(start_paused = true)]
async fn everyone_gets_the_same_answer() {
    let world = keyed().await;
    let answer = json!({
        "status": "accepted",
        "detail": "unless the address is subscribed already, it gets a mail with a link to confirm",
    });
    let reply = ask(&world, "root", json!({"email": "ann@example.com", "confirmed": true})).await;
    assert_eq!(reply.json()["subscription"]["state"], "confirmed");
    for email in ["ann@example.com", "new@example.com", "new@example.com"] {
        let reply = ask(&world, "form", json!({"email": email, "filter": {"a": ["b"]}})).await;
        assert_eq!((reply.status, reply.json()), (StatusCode::ACCEPTED, answer.clone()), "{email}");
    }
    let reply = ask(&world, "form", json!({"email": "ann@example.com", "confirmed": true})).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::FORBIDDEN, "missing-scope"));
    let found = world.memory.subscriptions().list(&Default::default()).await.unwrap().data;
    let ann = found.iter().find(|row| row.email.as_str() == "ann@example.com").unwrap();
    assert!(ann.filter.is_empty(), "a confirmed one is changed by admins only");
    assert_eq!(ann.confirmed_by.as_deref(), Some("admin"));
}

#[tokio::test(start_paused = true)]
async fn an_admin_sees_what_was_made() {
    let world = World::new();
    let body = json!({"email": "Ann@BÜCHER.example", "filter": {"customer": ["acme", 1, true]}}).to_string();
    let reply = world.post(PATH, JSON, body).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
    assert_eq!(
        masked(reply.json()["subscription"].clone(), &["id"]),
        json!({
            "id": "<id>",
            "topic": "messages",
            "email": "Ann@xn--bcher-kva.example",
            "filter": {"customer": ["acme", 1, true]},
            "state": "pending",
            "created_at": epoch().to_string(),
            "requested_at": epoch().to_string(),
        })
    );
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_wishes_are_one_mail() {
    let world = World::new();
    let mut id = None;
    for _ in 0..10_000 {
        let reply = world.post(PATH, JSON, r#"{"email": "ann@example.com"}"#).await;
        id = reply.json()["subscription"]["id"].as_str().and_then(SubscriptionId::parse);
    }
    let mails = world.memory.deliveries().list(id.unwrap().uuid(), &PageRequest::default()).await.unwrap();
    assert_eq!(mails.data.len(), 1);
    tokio::time::advance(tidings_domain::subscription::CONFIRMATION_WINDOW).await;
    world.post(PATH, JSON, r#"{"email": "ann@example.com"}"#).await;
    let mails = world.memory.deliveries().list(id.unwrap().uuid(), &PageRequest::default()).await.unwrap();
    assert_eq!(mails.data.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn addresses_and_filters_that_are_not() {
    let world = World::new();
    for email in [
        "ann@example.com\r\nBcc: eve@example.com",
        "ann@example.com, eve@example.com",
        "Ann <ann@example.com>",
        "ann",
        "",
    ] {
        let reply = world.post(PATH, JSON, json!({"email": email}).to_string()).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::BAD_REQUEST, "bad-address"),
            "{email:?}"
        );
        assert_eq!(reply.json()["field"], "email");
        assert!(!reply.text().contains("eve"), "an address is not echoed");
    }
    for (body, problem) in [
        (json!({"email": "a@example.com", "filter": {"a": "b"}}), "bad-filter"),
        (json!({"email": "a@example.com", "filters": {}}), "unknown-field"),
        (json!({}), "missing-field"),
        (json!({"email": ["a@example.com", "b@example.com"]}), "wrong-shape"),
    ] {
        assert_eq!(world.post(PATH, JSON, body.to_string()).await.problem(), problem, "{body}");
    }
    let reply = world.post("/v1/topics/none/subscriptions", JSON, r#"{"email": "a@example.com"}"#).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::NOT_FOUND, "unknown-topic"));
    assert!(world.memory.subscriptions().list(&Default::default()).await.unwrap().data.is_empty());
}

#[tokio::test(start_paused = true)]
async fn they_are_listed_read_and_removed() {
    let world = World::new();
    for (email, confirmed) in [("a@example.com", true), ("b@example.com", false)] {
        world.post(PATH, JSON, json!({"email": email, "confirmed": confirmed}).to_string()).await;
    }
    let listed = |path: &'static str| {
        let world = &world;
        async move {
            let json = world.get(path).await.json();
            let data = json["data"].as_array().unwrap().clone();
            data.iter().map(|row| row["email"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        }
    };
    assert_eq!(listed("/v1/subscriptions").await.len(), 2);
    assert_eq!(listed("/v1/subscriptions?state=confirmed").await, ["a@example.com"]);
    assert_eq!(listed("/v1/subscriptions?email=b%40EXAMPLE.com&topic=messages").await, ["b@example.com"]);
    assert_eq!(listed("/v1/subscriptions?topic=other").await, Vec::<String>::new());

    let json = world.get("/v1/subscriptions?state=confirmed").await.json();
    let path = format!("/v1/subscriptions/{}", json["data"][0]["id"].as_str().unwrap());
    assert_eq!(world.get(&path).await.json(), json["data"][0]);
    assert_eq!(world.call(Method::DELETE, &path, &[], "").await.status, StatusCode::NO_CONTENT);
    for method in [Method::DELETE, Method::GET] {
        let reply = world.call(method, &path, &[], "").await;
        assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::NOT_FOUND, "unknown-subscription"));
    }
    assert_eq!(listed("/v1/subscriptions").await, ["b@example.com"]);
}
