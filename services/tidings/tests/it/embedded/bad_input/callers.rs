//! Callers who are not who they should be, and traces that are none.

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tidings_domain::{
    id::SubscriptionId,
    subscription::Act,
    time::Timestamp,
    token::{Secret, Token},
};

use super::{PATH, accepted, assert_nothing_else, assert_problem, post};
use crate::harness::Server;

#[tokio::test]
async fn tokens_that_are_guessed_changed_or_expired_do_nothing() {
    let secret = "5a".repeat(32);
    let server = Server::start_with(&[("TIDINGS_SECRET", &secret), ("TIDINGS_LOG", "debug")]).await;
    let email = "reader@example.com";
    let subscriptions = "/v1/topics/messages/subscriptions";
    server.ok(server.request(Method::POST, subscriptions).json(&json!({ "email": email }))).await;
    let link = server.link(email, "/confirm/").await;
    let real = link.rsplit_once('/').unwrap().1.to_owned();
    let [id, act, generation, expiry, signature] = real.split('.').collect::<Vec<_>>()[..] else {
        panic!("{real}")
    };
    let other = "01900000000070008000000000000001";
    let flipped = if signature.starts_with('0') { "1" } else { "0" };
    let guesses = [
        "x".to_owned(),
        "%00".to_owned(),
        "..".to_owned() + &real,
        id.to_owned(),
        format!("{id}.{act}.{generation}.{expiry}."),
        format!("{id}.{act}.{generation}.{expiry}.{}", "0".repeat(64)),
        format!("{id}.{act}.{generation}.{expiry}.{flipped}{}", &signature[1..]),
        format!("{id}.{act}.{generation}.{expiry}.{}", &signature[..63]),
        format!("{id}.{act}.{generation}.9999999999.{signature}"),
        format!("{id}.{act}.2.{expiry}.{signature}"),
        format!("{other}.{act}.{generation}.{expiry}.{signature}"),
        format!("{real}.{signature}"),
        "9".repeat(5_000),
    ];
    for token in &guesses {
        for method in [Method::GET, Method::POST] {
            for page in ["confirm", "unsubscribe"] {
                let answer = server.answer(server.request(method.clone(), &format!("/{page}/{token}"))).await;
                assert!(
                    matches!(answer.problem(), "invalid-link" | "bad-path"),
                    "{method} /{page}/{token}: {:#}",
                    answer.body
                );
            }
        }
    }
    // A token of one act is none of the other.
    let crossed = server.request(Method::POST, &format!("/unsubscribe/{real}"));
    assert_problem(&server.answer(crossed).await, 404, "invalid-link");
    // Ours, and over: signed with the installation's own secret.
    let subscription = SubscriptionId::parse(id).unwrap();
    let token =
        |expires_at| Token { subscription, act: Act::Confirm, generation: 1, expires_at: Some(expires_at) };
    let expired = token(Timestamp::from_millis(1_000_000_000_000)).sign(&Secret::new([0x5a; 32]));
    for method in [Method::GET, Method::POST] {
        let answer = server.answer(server.request(method, &format!("/confirm/{expired}"))).await;
        assert_problem(&answer, 410, "link-expired");
    }
    let state = || async { server.get(&format!("/v1/subscriptions/{id}")).await["state"].clone() };
    assert_eq!(state().await, "pending");

    // A scanner that opens the link confirms nothing; the button does.
    server.ok(server.client.get(&link)).await;
    assert_eq!(state().await, "pending");
    server.ok(server.client.post(&link)).await;
    assert_eq!(state().await, "confirmed");
    let message = server.publish("to whom it concerns").await;
    server.finished(&message).await;
    let unsubscribe = server.link(email, "/unsubscribe/").await;
    server.ok(server.client.post(&unsubscribe)).await;
    assert_problem(&server.answer(server.client.post(&link)).await, 410, "link-stale");
    assert_eq!(state().await, "unsubscribed");
    let log = server.log();
    for (what, is_told) in [("a token", log.contains(signature)), ("an address", log.contains(email))] {
        assert!(!is_told, "{what} is in the log:\n{log}");
    }
    assert_nothing_else(server, vec![message]).await;
}

#[tokio::test]
async fn a_wrong_key_opens_nothing() {
    let key = "the right key of all keys";
    let settings = [("TIDINGS_AUTH", "required"), ("TIDINGS_ADMIN_KEY", key), ("TIDINGS_LOG", "debug")];
    let server = Server::start_with(&settings).await;
    let paths = [
        (Method::POST, PATH),
        (Method::POST, "/publishtopic"),
        (Method::POST, "/v1/topics/messages/subscriptions"),
        (Method::PUT, "/v1/topics/orders"),
        (Method::GET, "/v1/messages"),
        (Method::GET, "/v1/subscriptions"),
        (Method::POST, "/v1/dead-letters/redrive"),
        (Method::GET, "/mailbox"),
    ];
    let wrong = [
        ("Bearer guessed".to_owned(), "wrong-key"),
        (format!("Bearer {key}x"), "wrong-key"),
        (format!("Bearer {}", key.to_uppercase()), "wrong-key"),
        (format!("Bearer {}", "k".repeat(20_000)), "wrong-key"),
        ("Bearer ".to_owned(), "missing-key"),
        (format!("Token {key}"), "missing-key"),
        (key.to_owned(), "missing-key"),
    ];
    for (method, path) in paths {
        let request = || server.request(method.clone(), path);
        let answer = server.answer(request().body("x")).await;
        assert_problem(&answer, 401, "missing-key");
        assert!(answer.headers.contains_key(header::WWW_AUTHENTICATE));
        assert!(answer.body["mend"].as_str().unwrap().contains("TIDINGS_ADMIN_KEY"), "{:#}", answer.body);
        for (value, name) in &wrong {
            let answer = server.answer(request().header(header::AUTHORIZATION, value).body("x")).await;
            assert_problem(&answer, 401, name);
        }
    }
    let with_key = |request: reqwest::RequestBuilder| request.bearer_auth(key);
    let id = accepted(&server, with_key(post(&server, PATH, "text/plain", "x"))).await;
    let list = server.ok(with_key(server.request(Method::GET, "/v1/messages"))).await;
    let status =
        server.ok(with_key(server.request(Method::GET, &format!("/v1/messages/{id}?wait=30s")))).await;
    assert_eq!(status["state"], "done", "{status:#}");
    assert!(list["data"].as_array().unwrap().len() <= 1, "{list:#}");
    for path in ["/v1/subscriptions", "/mailbox"] {
        let list = server.ok(with_key(server.request(Method::GET, path))).await;
        assert_eq!(list["data"], json!([]), "{path}");
    }
    let mut server = server;
    assert!(server.stop().await.success());
    assert!(!server.log().contains("panic") && !server.log().contains(key), "{}", server.log());
    assert_eq!(server.sqlite3("select count(*), (select count(*) from topics) from items").await, "1|1");
}

#[tokio::test]
async fn with_keys_off_pages_of_others_and_other_names_open_nothing() {
    let server = Server::start().await;
    for (name, value, problem) in [
        (header::ORIGIN, "https://evil.example", "foreign-origin"),
        (header::ORIGIN, "null", "foreign-origin"),
        (header::HOST, "rebound.example", "foreign-host"),
    ] {
        let answer = server.answer(post(&server, PATH, "text/plain", "x").header(name, value)).await;
        assert_problem(&answer, 403, problem);
    }
    assert_nothing_else(server, vec![]).await;
}

#[tokio::test]
async fn a_garbage_traceparent_is_no_trace() {
    let server = Server::start().await;
    let mut ids = Vec::new();
    let zeros = "00-00000000000000000000000000000000-0000000000000000-01";
    let upper = "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01";
    for garbage in ["", "x", "00-", zeros, upper, &format!("ff{}", &upper[2..]), &"0".repeat(5_000)] {
        let request = post(&server, PATH, "text/plain", "x").header("traceparent", garbage);
        let request = request.header("tracestate", "k".repeat(1_000));
        let answer = server.answer(request).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED, "{garbage:?}: {:#}", answer.body);
        let id = answer.body["id"].as_str().unwrap().to_owned();
        let status = server.finished(&id).await;
        assert_eq!(status["message"].get("traceparent"), None::<&Value>, "{garbage:?}");
        ids.push(id);
    }
    assert_nothing_else(server, ids).await;
}
