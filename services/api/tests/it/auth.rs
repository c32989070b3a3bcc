//! Keys, scopes, and with keys off the names and origins that are ours.

use axum::http::{Method, StatusCode};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::json;
use tidings_api::{AdminKey, Auth};
use tidings_domain::{
    api_key::{ApiKey, KeyHash, Scope},
    id::ApiKeyId,
    topic::TopicName,
};

use crate::world::{Reply, World, epoch};

fn required() -> World {
    World::settings(|settings| {
        settings.auth = Auth::Required;
        settings.admin_key = Some(AdminKey::new("root"));
    })
}

async fn make_key(world: &World, text: &str, number: u128, scopes: &[Scope], topics: &[&str]) {
    let key = ApiKey {
        id: ApiKeyId(uuid::Uuid::from_u128(number)),
        hash: KeyHash::of(text),
        owner: format!("owner-{number}"),
        scopes: scopes.to_vec(),
        topics: topics.iter().map(|topic| TopicName::parse(topic).unwrap()).collect(),
        created_at: epoch(),
    };
    world.memory.catalog().put_key(&key).await.unwrap();
}

async fn with_key(world: &World, key: &str, method: Method, path: &str, body: &'static str) -> Reply {
    let bearer = format!("Bearer {key}");
    world.call(method, path, &[("authorization", &bearer)], body).await
}

const PUBLISH: &str = "/v1/topics/messages/messages";

/// Every call that needs a key.
const CALLS: [(Method, &str); 20] = [
    (Method::POST, PUBLISH),
    (Method::POST, "/publishtopic"),
    (Method::GET, "/v1/messages"),
    (Method::GET, "/v1/messages/018f0000-0000-7000-8000-000000000000"),
    (Method::GET, "/v1/messages/018f0000-0000-7000-8000-000000000000/deliveries"),
    (Method::GET, "/v1/topics"),
    (Method::GET, "/v1/topics/messages"),
    (Method::PUT, "/v1/topics/orders"),
    (Method::DELETE, "/v1/topics/orders"),
    (Method::POST, "/v1/topics/messages/subscriptions"),
    (Method::GET, "/v1/subscriptions"),
    (Method::GET, "/v1/subscriptions/018f0000-0000-7000-8000-000000000000"),
    (Method::DELETE, "/v1/subscriptions/018f0000-0000-7000-8000-000000000000"),
    (Method::GET, "/v1/dead-letters"),
    (Method::POST, "/v1/dead-letters/redrive"),
    (Method::POST, "/v1/dead-letters/discard"),
    (Method::GET, "/mailbox"),
    (Method::GET, "/mailbox/1"),
    (Method::GET, "/mailbox/1/source"),
    (Method::GET, "/mailbox/1/html"),
];

#[tokio::test(start_paused = true)]
async fn without_a_key_nothing_is_served() {
    let world = required();
    make_key(&world, "no-scope", 1, &[], &[]).await;
    for (method, path) in CALLS {
        let reply = world.call(method.clone(), path, &[], "x").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::UNAUTHORIZED, "missing-key"),
            "{path}"
        );
        assert!(!reply.header("www-authenticate").is_empty());
        let reply = with_key(&world, "guess", method.clone(), path, "x").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::UNAUTHORIZED, "wrong-key"),
            "{path}"
        );
        let reply = with_key(&world, "no-scope", method, path, "x").await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (StatusCode::FORBIDDEN, "missing-scope"),
            "{path}"
        );
    }
    let reply = world.call(Method::POST, PUBLISH, &[], "x").await;
    assert_eq!(
        reply.json(),
        json!({
            "type": "urn:tidings:problem:missing-key",
            "title": "A key is needed",
            "status": 401,
            "detail": "no key was sent: this installation asks for the header Authorization: Bearer <key>",
            "mend": "TIDINGS_ADMIN_KEY, set where the server starts, is a key with every scope: openssl rand -hex 32 \
                     makes one. A browser gives it as the password for the mailbox",
        })
    );
    for path in ["/healthz", "/openapi.json", "/", "/confirm/x", "/unsubscribe/x"] {
        let status = world.get(path).await.status;
        assert!(![StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status), "{path}: {status}");
    }
}

#[tokio::test(start_paused = true)]
async fn each_scope_opens_its_own_doors() {
    let world = required();
    make_key(&world, "publish", 1, &[Scope::Publish], &[]).await;
    make_key(&world, "read", 2, &[Scope::Read], &[]).await;
    make_key(&world, "orders", 3, &[Scope::Publish, Scope::Read], &["orders"]).await;
    with_key(&world, "root", Method::PUT, "/v1/topics/orders", "").await;
    for (key, method, path, allowed) in [
        ("publish", Method::POST, PUBLISH, true),
        ("publish", Method::POST, "/publishtopic", true),
        ("publish", Method::GET, "/v1/messages", false),
        ("read", Method::GET, "/v1/messages", true),
        ("read", Method::GET, "/v1/topics", true),
        ("read", Method::GET, "/v1/dead-letters", true),
        ("read", Method::POST, PUBLISH, false),
        ("read", Method::GET, "/v1/subscriptions", false),
        ("read", Method::GET, "/mailbox", false),
        ("read", Method::PUT, "/v1/topics/x", false),
        ("orders", Method::POST, PUBLISH, false),
        ("orders", Method::POST, "/v1/topics/orders/messages", true),
        ("orders", Method::GET, "/v1/messages", false),
        ("orders", Method::GET, "/v1/messages?topic=orders", true),
        ("orders", Method::GET, "/v1/topics/messages", false),
        ("root", Method::GET, "/v1/subscriptions", true),
    ] {
        let reply = with_key(&world, key, method, path, "x").await;
        assert_eq!(reply.status.is_success(), allowed, "{key} {path}: {}", reply.text());
    }
    let topics = with_key(&world, "orders", Method::GET, "/v1/topics", "").await.json();
    assert_eq!(topics["data"].as_array().unwrap().len(), 1);

    let id = with_key(&world, "publish", Method::POST, PUBLISH, "secret").await.json()["id"].clone();
    world.store().await;
    let path = format!("/v1/messages/{}", id.as_str().unwrap());
    assert_eq!(with_key(&world, "read", Method::GET, &path, "").await.status, StatusCode::OK);
    for path in [path.clone(), format!("{path}/deliveries")] {
        let reply = with_key(&world, "orders", Method::GET, &path, "").await;
        assert_eq!(reply.problem(), "not-stored-yet", "another topic's message is as if it were not");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_is_its_owners() {
    let world = required();
    make_key(&world, "a", 1, &[Scope::Publish], &[]).await;
    make_key(&world, "b", 2, &[Scope::Publish], &[]).await;
    let mut ids = Vec::new();
    for key in ["a", "b", "root"] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", "k")];
        let reply = world.call(Method::POST, PUBLISH, &headers, key.to_owned()).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
        ids.push(reply.json()["id"].as_str().unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_browser_gives_the_key_as_a_password() {
    let world = required();
    let reply = world.get("/mailbox").await;
    assert_eq!(reply.header("www-authenticate"), r#"Basic realm="tidings", charset="UTF-8""#);
    let basic = |password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("me:{password}")));
    let right = basic("root");
    assert_eq!(
        world.call(Method::GET, "/mailbox", &[("authorization", &right)], "").await.status,
        StatusCode::OK
    );
    let wrong = basic("toor");
    let reply = world.call(Method::GET, "/mailbox", &[("authorization", &wrong)], "").await;
    assert_eq!(reply.problem(), "wrong-key");
    let reply = world.call(Method::GET, "/v1/messages", &[("authorization", &right)], "").await;
    assert_eq!((reply.problem().as_str(), reply.header("www-authenticate")), ("missing-key", "Bearer"));
}

#[tokio::test(start_paused = true)]
async fn with_keys_off_other_pages_and_names_are_refused() {
    let world = World::settings(|settings| {
        settings.public_url = "https://tidings.example.com".into();
        settings.allowed_hosts = vec!["api".into()];
    });
    let post =
        |headers: &'static [(&'static str, &'static str)]| world.call(Method::POST, PUBLISH, headers, "x");
    for own in [
        &[("host", "localhost:8080")][..],
        &[("host", "api:8080")],
        &[("host", "tidings.example.com"), ("origin", "https://tidings.example.com")],
        &[("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")],
    ] {
        assert_eq!(post(own).await.status, StatusCode::ACCEPTED, "{own:?}");
    }
    let reply = post(&[("host", "127.0.0.1:8080"), ("origin", "https://evil.example")]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::FORBIDDEN, "foreign-origin"));
    assert_eq!(
        reply.json()["detail"],
        "the request comes from a web page of \"https://evil.example\", which is not ours"
    );
    assert_eq!(post(&[("host", "127.0.0.1:8080"), ("origin", "null")]).await.problem(), "foreign-origin");
    let reply = post(&[("host", "rebound.example:8080")]).await;
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::FORBIDDEN, "foreign-host"));
    assert_eq!(world.memory.depth(tidings_domain::ports::Queue::Items), 4);
    let probe = world.call(Method::GET, "/readyz", &[("host", "10.1.2.3:8080")], "").await;
    assert_ne!(probe.status, StatusCode::FORBIDDEN, "an orchestrator asks by address");
}
