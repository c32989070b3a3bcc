//! The OpenAPI description says what the router does.

use std::collections::BTreeSet;

use axum::http::{Method, StatusCode};
use serde_json::Value;

use crate::world::World;

#[test]
fn the_committed_description_is_that_of_the_code() {
    let committed = include_str!("../../openapi.json");
    assert!(
        committed == tidings_api::openapi_json(),
        "services/api/openapi.json is old: cargo run -p tidings-api --example openapi > services/api/openapi.json"
    );
}

/// Each path with the methods that the description gives it.
fn described() -> Vec<(String, BTreeSet<String>)> {
    let json: Value = serde_json::from_str(&tidings_api::openapi_json()).unwrap();
    let paths = json["paths"].as_object().unwrap().iter();
    paths
        .map(|(path, item)| {
            let methods = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
            (path.clone(), methods)
        })
        .collect()
}

#[tokio::test(start_paused = true)]
async fn every_described_call_is_there_and_no_other() {
    let world = World::new();
    let described = described();
    assert_eq!(described.len(), 23);
    for (path, mut methods) in described {
        let path = path.replace("{topic}", "messages").replace("{name}", "messages").replace("{token}", "x");
        let path = path.replace("{id}", "1");
        let reply = world.call(Method::from_bytes(b"BREW").unwrap(), &path, &[], "").await;
        assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED, "{path}");
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        let allowed: BTreeSet<_> = reply.header("allow").split(',').map(str::to_owned).collect();
        assert_eq!(allowed, methods, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_served_as_openapi_3_1_and_says_how_each_call_is_answered() {
    let reply = World::new().get("/openapi.json").await;
    let json = reply.json();
    assert_eq!((reply.header("content-type"), &json["openapi"]), ("application/json", &"3.1.0".into()));
    let text = reply.text();
    for (at, _) in text.match_indices("#/components/schemas/") {
        let name = text[at + "#/components/schemas/".len()..].split('"').next().unwrap();
        assert!(json["components"]["schemas"][name].is_object(), "{name} is told of and not there");
    }
    for (path, item) in json["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
        }
    }
}
