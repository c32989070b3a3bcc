//! Rows by plain SQL, and a NUL by every way in.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::stack::{Stack, until};

#[tokio::test]
async fn rows_by_psql_are_mailed() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let id = stack
        .psql("insert into items (topic, message) values ('messages', 'by plain SQL') returning id")
        .await;
    let status = stack.finished(&id).await;
    assert_eq!((&status["state"], &status["deliveries"]["sent"]), (&json!("done"), &json!(1)), "{status:#}");
    assert_eq!(stack.mails("by plain SQL"), 1);

    // One statement, one transaction, three changes.
    let rows = "copy items (topic, message, subject) from stdin;\n\
        messages\tcopied 1\tOf a copy\nmessages\tcopied 2\t\\N\nmessages\tcopied 3\tOf a copy\n\\.\n";
    copy(&stack, rows).await;
    stack.smtp.wait_for_mails(4).await;
    for text in ["copied 1", "copied 2", "copied 3"] {
        assert_eq!(stack.mails(text), 1, "{text}");
    }
    let subjects = stack.smtp.mails();
    let with_subject = subjects.iter().filter(|mail| mail.header("Subject").as_deref() == Some("Of a copy"));
    assert_eq!(with_subject.count(), 2);

    // What is rolled back, updated or deleted is no new item.
    let id = stack
        .psql("insert into items (topic, message) values ('messages', 'and gone') returning id; delete from items where message = 'and gone'")
        .await;
    stack
        .psql("begin; insert into items (topic, message) values ('messages', 'rolled back'); rollback")
        .await;
    let last = stack.publish("the last one").await;
    stack.finished(&last).await;
    assert_eq!(stack.mails("rolled back"), 0);
    // The row is gone and its change was committed: it is mailed, from the record.
    until("the mail of the deleted row", async || stack.mails("and gone") == 1).await;
    assert!(!id.is_empty());
    assert_eq!(stack.dead_letters().await, Vec::<Value>::new());
}

/// Runs a script by `psql` that may hold data for COPY.
async fn copy(stack: &Stack, script: &str) {
    let mut child = tokio::process::Command::new("psql")
        .args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &stack.database])
        .stdin(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stdin, script.as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test]
async fn a_nul_gets_in_by_no_way_and_takes_no_neighbour_along() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let post = |body: Value| stack.request(Method::POST, "/v1/topics/messages/messages").json(&body);
    for body in [
        json!({ "message": "a\u{0}b" }),
        json!({ "message": { "a": "\u{0}" } }),
        json!({ "message": "text", "subject": "a\u{0}b" }),
        json!({ "message": "text", "attributes": { "a": "\u{0}" } }),
        json!({ "message": "text", "attributes": { "\u{0}": "a" } }),
    ] {
        let answer = stack.answer(post(body.clone())).await;
        // A JSON message is kept as it was sent: six characters that stand for a NUL are no NUL.
        let is_escaped = body["message"].is_object();
        let expected = if is_escaped { StatusCode::ACCEPTED } else { StatusCode::BAD_REQUEST };
        assert_eq!(answer.status, expected, "{body}: {:#}", answer.body);
    }
    let text =
        stack.request(Method::POST, "/publishtopic").header("content-type", "text/plain").body("a\u{0}b");
    assert_eq!(stack.answer(text).await.status, StatusCode::BAD_REQUEST);
    let lines =
        format!("{}\n{}\n", json!({ "message": "a good neighbour" }), json!({ "message": "a\u{0}b" }));
    let batch = stack.request(Method::POST, "/v1/topics/messages/messages");
    let answer = stack.ok(batch.header("content-type", "application/x-ndjson").body(lines)).await;
    assert_eq!(answer["results"][1]["problem"]["status"], 400, "{answer:#}");
    let status = stack.finished(answer["results"][0]["id"].as_str().unwrap()).await;
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");

    for statement in [
        "insert into items (topic, message) values ('messages', 'a' || chr(0) || 'b')",
        "insert into items (topic, message) values ('messages', E'a\\000b')",
        "insert into items (topic, message, attributes) values ('messages', 'text', '{\"a\": \"\\u0000\"}')",
        "insert into items (topic, message) values ('messages', E'a\\x07b')",
    ] {
        let output = tokio::process::Command::new("psql")
            .args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", &stack.database, "-c", statement])
            .output()
            .await
            .unwrap();
        assert!(!output.status.success(), "{statement} was not refused");
    }
    let last = stack.publish("all of it goes on").await;
    assert_eq!(stack.finished(&last).await["deliveries"]["sent"], 1);
    assert_eq!(stack.dead_letters().await, Vec::<Value>::new());
}
