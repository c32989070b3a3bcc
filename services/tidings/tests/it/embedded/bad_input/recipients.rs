//! Recipients: addresses that are none, more than one, or asked for ten thousand times.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{assert_nothing_else, assert_problem, post};
use crate::harness::Server;

const PATH: &str = "/v1/topics/messages/subscriptions";

/// Clients that ask at once, each over a connection of its own that is kept.
const CLIENTS: usize = 32;

#[tokio::test]
async fn addresses_that_are_none_or_two_are_refused_and_nobody_is_mailed() {
    let server = Server::start_with(&[("TIDINGS_LOG", "debug")]).await;
    let send = |body: Value| server.answer(server.request(Method::POST, PATH).json(&body));
    let long = format!("{}@example.com", "a".repeat(65));
    for email in [
        "ann@example.com\r\nBcc: eve@example.com",
        "ann@example.com\r\nRCPT TO:<eve@example.com>",
        "ann@example.com\n",
        "ann\r\n@example.com",
        "ann@example.com, eve@example.com",
        "ann@example.com;eve@example.com",
        "ann@example.com eve@example.com",
        "ann@example.com>,<eve@example.com",
        "ann@example.com> SIZE=1",
        "Ann <ann@example.com>",
        "\"ann eve\"@example.com",
        "ann(eve@example.com)@example.com",
        "@eve.example,@x.example:ann@example.com",
        "ann@eve@example.com",
        "ann%00@example.com\0",
        "ann@[127.0.0.1]",
        "ann@localhost",
        "ann@exam\u{200b}ple..com",
        "ann",
        "",
        &long,
    ] {
        let answer = send(json!({ "email": email })).await;
        assert_problem(&answer, 400, "bad-address");
        assert_eq!(answer.body["field"], "email", "{email:?}");
        assert!(!answer.body.to_string().contains("eve"), "an address is not told back: {:#}", answer.body);
    }
    for (body, name) in [
        (json!({ "email": ["ann@example.com", "eve@example.com"] }), "wrong-shape"),
        (json!({ "email": "ann@example.com", "cc": "eve@example.com" }), "unknown-field"),
        (json!({ "email": "ann@example.com", "filter": { "a": "b" } }), "bad-filter"),
        (json!({}), "missing-field"),
    ] {
        assert_problem(&send(body).await, 400, name);
    }
    let twice = r#"{"email": "ann@example.com", "email": "eve@example.com"}"#;
    assert_problem(&server.answer(post(&server, PATH, "application/json", twice)).await, 400, "wrong-shape");
    assert_problem(&server.answer(post(&server, PATH, "text/plain", "{}")).await, 415, "content-type");
    let elsewhere = server.request(Method::POST, "/v1/topics/none/subscriptions");
    let answer = server.answer(elsewhere.json(&json!({ "email": "ann@example.com" }))).await;
    assert_problem(&answer, 404, "unknown-topic");
    assert_eq!(server.all("/v1/subscriptions").await, Vec::<Value>::new());
    assert_eq!(server.sqlite3("select count(*) from deliveries").await, "0");
    assert_eq!(server.all("/mailbox").await, Vec::<Value>::new());
    assert!(!server.log().contains("example.com"), "an address is in the log:\n{}", server.log());
    assert_nothing_else(server, vec![]).await;
}

#[tokio::test]
async fn an_address_in_an_international_domain_is_mailed_in_punycode() {
    let server = Server::start().await;
    let (written, mailed) = ("Ann@BÜCHER.example", "Ann@xn--bcher-kva.example");
    for email in [written, "Ann@bücher.example", mailed, "Ann@Xn--Bcher-KVA.example"] {
        server.ok(server.request(Method::POST, PATH).json(&json!({ "email": email }))).await;
    }
    let rows = server.all("/v1/subscriptions").await;
    assert_eq!(
        (rows.len(), &rows[0]["email"]),
        (1, &json!(mailed)),
        "all of these are one address: {rows:#?}"
    );
    server.ok(server.client.post(server.link(mailed, "/confirm/").await)).await;
    let id = server.publish("grüße").await;
    assert_eq!(server.finished(&id).await["deliveries"]["sent"], 1);
    let mail = server.mail(mailed, "grüße").await;
    let source = server.source(&mail).await;
    assert!(source.contains(&format!("\r\nTo: {mailed}\r\n")) && source.is_ascii(), "{source}");
    let found = server.request(Method::GET, "/v1/subscriptions").query(&[("email", written)]);
    assert_eq!(server.ok(found).await["data"].as_array().unwrap().len(), 1);
    assert_nothing_else(server, vec![id]).await;
}

/// Asks this often for one address; each has to be told the same.
async fn ask(server: &Server, email: &'static str, times: usize) {
    let left = Arc::new(AtomicUsize::new(times));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, url, left) = (server.client.clone(), format!("{}{PATH}", server.url), Arc::clone(&left));
        clients.spawn(async move {
            let mut answers = 0;
            let take = |left: usize| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let response = client.post(&url).json(&json!({ "email": email })).send().await.unwrap();
                let (status, body) = (response.status(), response.text().await.unwrap());
                assert_eq!(status, StatusCode::ACCEPTED, "{body}");
                answers += 1;
            }
            answers
        });
    }
    assert_eq!(clients.join_all().await.into_iter().sum::<usize>(), times);
}

/// The link to confirm of the mail that this generation of the subscription gets.
async fn link(server: &Server, email: &str, generation: u32) -> String {
    let marker = format!(".confirm.{generation}.");
    let mail = server.mail(email, &marker).await;
    let links: Vec<_> = mail["links"].as_array().unwrap().iter().map(|link| link.as_str().unwrap()).collect();
    (*links.iter().find(|link| link.contains(&marker)).unwrap()).to_owned()
}

#[tokio::test]
async fn ten_thousand_calls_for_one_address_are_one_mail_a_window() {
    let server = Server::start().await;
    let email = "ann@example.com";
    ask(&server, email, 10_000).await;
    let first = link(&server, email, 1).await;
    let counts = "select count(*), max(generation), (select count(*) from deliveries) from subscriptions";
    assert_eq!(server.sqlite3(counts).await, "1|1|1");
    // As if the window had passed.
    server.sqlite3("update subscriptions set requested_at = requested_at - 600000").await;
    ask(&server, email, 500).await;
    let second = link(&server, email, 2).await;
    assert_eq!(server.sqlite3(counts).await, "1|2|2");
    assert_eq!(server.mails(email, "").await, 2);
    assert_problem(&server.answer(server.client.post(first)).await, 410, "link-stale");
    server.ok(server.client.post(second)).await;
    ask(&server, email, 100).await;
    assert_eq!(server.sqlite3(counts).await, "1|2|2");
    assert_nothing_else(server, vec![]).await;
}
