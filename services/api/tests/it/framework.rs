//! What the framework would answer by itself, and what every answer carries.

use axum::http::{Method, StatusCode};
use serde_json::json;

use crate::world::World;

#[tokio::test(start_paused = true)]
async fn paths_and_methods_that_are_not() {
    let world = World::new();
    let reply = world.get("/v1/nothing").await;
    assert_eq!(reply.status, StatusCode::NOT_FOUND);
    assert_eq!(
        reply.json(),
        json!({
            "type": "urn:tidings:problem:no-such-path",
            "title": "No such path",
            "status": 404,
            "detail": "there is nothing at /v1/nothing",
            "mend": "GET /openapi.json lists all paths",
        })
    );
    for path in ["/v1/messages/", "//", "/v1/topics/messages/messages/x"] {
        assert_eq!(world.get(path).await.problem(), "no-such-path", "{path}");
    }
    let reply = world.call(Method::DELETE, "/v1/topics/orders/messages", &[], "").await;
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed")
    );
    assert_eq!(reply.header("allow"), "POST");
    assert_eq!(
        world.call(Method::PATCH, "/v1/topics/x", &[], "").await.header("allow"),
        "GET,HEAD,PUT,DELETE"
    );
    let odd = Method::from_bytes(b"BREW").unwrap();
    assert_eq!(world.call(odd, "/v1/messages", &[], "").await.problem(), "method-not-allowed");
    let head = world.call(Method::HEAD, "/v1/messages", &[], "").await;
    assert_eq!((head.status, head.body.len()), (StatusCode::OK, 0));
}

#[tokio::test(start_paused = true)]
async fn every_answer_has_a_request_id() {
    let world = World::new();
    let own = world.call(Method::GET, "/v1/messages", &[("x-request-id", "req-1.A_b")], "").await;
    assert_eq!(own.header("x-request-id"), "req-1.A_b");
    let long = "x".repeat(65);
    let mut made = Vec::new();
    for bad in ["", "a b", "a\"b", &long] {
        let reply = world.call(Method::GET, "/nothing", &[("x-request-id", bad)], "").await;
        let id = reply.header("x-request-id").to_owned();
        assert_eq!((id.len(), id == bad), (36, false), "{bad:?}");
        made.push(id);
    }
    made.dedup();
    assert_eq!(made.len(), 4);
    for (path, status) in [("/nothing", 404), ("/publishtopic", 405), ("/healthz", 200)] {
        let reply = world.get(path).await;
        assert_eq!(reply.status, status);
        assert_eq!(
            (reply.header("x-content-type-options"), reply.header("cache-control")),
            ("nosniff", "no-store")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_at_once_are_told_to_come_back() {
    let world = World::settings(|settings| settings.max_concurrent_requests = 1);
    let slow = axum::body::Body::from_stream(futures::stream::pending::<
        Result<axum::body::Bytes, std::io::Error>,
    >());
    let (slow, reply, probe) = tokio::join!(
        world.post("/v1/topics/messages/messages", "text/plain", slow),
        world.get("/v1/messages"),
        world.get("/healthz")
    );
    assert_eq!(slow.problem(), "too-slow");
    assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::SERVICE_UNAVAILABLE, "busy"));
    assert_eq!(reply.header("retry-after"), "1");
    assert_eq!(probe.status, StatusCode::OK);
    assert_eq!(world.get("/v1/messages").await.status, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_way_in_says_where_to_go() {
    let world = World::new();
    let json = world.get("/").await.json();
    assert_eq!(
        (&json["name"], &json["mailbox"], &json["openapi"]),
        (&json!("tidings"), &json!("/mailbox"), &json!("/openapi.json"))
    );
    let page = world.call(Method::GET, "/", &[("accept", "text/html")], "").await;
    assert!(page.text().contains("<a href=\"/mailbox\">"));
}
