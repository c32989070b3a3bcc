//! From a POST to a mail.

use reqwest::{Method, StatusCode, header};
use serde_json::json;
use tokio::process::Command;

use crate::harness::{Server, stdout};

#[tokio::test]
async fn a_post_is_mailed_to_who_confirmed_by_the_link_in_the_mail() {
    let server = Server::start().await;
    server.subscribe("reader@example.com").await;
    let id = server.publish("the parcel has arrived").await;
    let status = server.finished(&id).await;
    assert_eq!(status["state"], "done", "{status:#}");
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    let mail = server.mail("reader@example.com", "the parcel has arrived").await;
    assert!(server.source(&mail).await.contains("List-Unsubscribe: <"), "{mail:#}");
    assert_eq!(server.mails("reader@example.com", "the parcel has arrived").await, 1);

    // And no more after a click on the other link.
    let link = server.link("reader@example.com", "/unsubscribe/").await;
    server.ok(server.client.post(link)).await;
    let id = server.publish("another parcel").await;
    assert_eq!(server.finished(&id).await["deliveries"]["total"], 0);
    assert_eq!(server.mails("reader@example.com", "another parcel").await, 0);
}

#[tokio::test]
async fn publishtopic_answers_as_it_always_did() {
    let server = Server::start().await;
    let request = server.request(Method::POST, "/publishtopic").body("hello");
    let answer = server.answer(request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(answer.body, json!("A new message has been published"));
    let refused = server.answer(server.request(Method::GET, "/publishtopic")).await;
    assert_eq!(refused.status, StatusCode::METHOD_NOT_ALLOWED);
    assert!(refused.headers[header::ALLOW].to_str().unwrap().contains("POST"));
}

#[tokio::test]
async fn a_filter_tells_readers_of_one_topic_apart() {
    let server = Server::start().await;
    for customer in ["blue", "green"] {
        let request =
            json!({ "email": format!("{customer}@example.com"), "filter": { "customer": [customer] } });
        server.subscribe_to("messages", request).await;
    }
    let message = json!({ "message": "for green only", "attributes": { "customer": "green" } });
    let request = server.request(Method::POST, "/v1/topics/messages/messages").json(&message);
    let accepted = server.ok(request).await;
    let status = server.finished(accepted["id"].as_str().unwrap()).await;
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    assert_eq!(server.mails("green@example.com", "for green only").await, 1);
    assert_eq!(server.mails("blue@example.com", "for green only").await, 0);
}

#[tokio::test]
async fn a_row_by_the_sqlite3_shell_is_mailed() {
    let server = Server::start().await;
    server.subscribe("reader@example.com").await;
    let inserted = Command::new("sqlite3")
        .arg(server.database())
        .arg("insert into items (topic, message) values ('messages', 'by plain SQL') returning id;")
        .output()
        .await
        .unwrap();
    assert!(inserted.status.success(), "{inserted:?}");
    let id = stdout(&inserted).trim().to_owned();
    let mail = server.mail("reader@example.com", "by plain SQL").await;
    assert!(mail["subject"].as_str().unwrap().contains("New item on messages"), "{mail:#}");
    assert_eq!(server.finished(&id).await["deliveries"]["sent"], 1);
}

#[tokio::test]
async fn a_row_by_the_sqlite3_shell_that_breaks_the_rules_is_refused() {
    let server = Server::start().await;
    let long = format!("insert into items (topic, message) values ('messages', '{}');", "x".repeat(261_121));
    for statement in [
        "insert into items (topic, message) values ('messages', '');",
        "insert into items (topic, message) values ('Messages!', 'text');",
        "insert into items (topic, message) values ('messages', 'a' || char(7) || 'b');",
        "insert into items (id, topic, message) values ('1', 'messages', 'text');",
        "insert into items (topic, message, subject) values ('messages', 'text', 'two' || char(10) || 'lines');",
        "insert into items (topic, message, attributes) values ('messages', 'text', 'no json');",
        &long,
    ] {
        let mut shell = Command::new("sqlite3")
            .arg(server.database())
            .stdin(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = shell.stdin.take().unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stdin, statement.as_bytes()).await.unwrap();
        drop(stdin);
        let output = shell.wait_with_output().await.unwrap();
        let short = &statement[..statement.len().min(120)];
        assert!(!output.status.success() || !output.stderr.is_empty(), "{short} was not refused");
    }
    let list = server.get("/v1/messages").await;
    assert_eq!(list["data"], json!([]));
}
