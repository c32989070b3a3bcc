//! Rows by plain SQL.

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
