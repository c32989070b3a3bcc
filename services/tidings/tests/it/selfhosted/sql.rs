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

/// A row that the table's own checks would have refused: somebody dropped them.
#[tokio::test]
async fn a_row_that_is_no_item_is_a_dead_letter_and_holds_nobody_up() {
    let mut stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    // One transaction, so that the one in the middle is read with its neighbours.
    let rows = "alter table items drop constraint subject_is_one_line_without_control_characters;\n\
        begin;\n\
        insert into items (topic, message, subject) values ('messages', 'before the bad row', 'Fine');\n\
        insert into items (topic, message, subject) values ('messages', 'the bad row', E'a bell \\x07 rings') returning id;\n\
        insert into items (topic, message, subject) values ('messages', 'after the bad row', 'Fine');\n\
        commit;";
    let id = stack.psql(rows).await;
    let end = stack.psql("select pg_current_wal_insert_lsn()").await;
    stack.smtp.wait_for_mails(2).await;
    until("it is a dead letter", async || stack.dead_letters().await.len() == 1).await;
    let status = stack.finished(&id).await;
    assert_eq!(status["state"], "dead_letter", "{status:#}");
    let letter = stack.dead_letters().await.remove(0);
    for (member, value) in
        [("queue", "changes"), ("reason", "undecodable"), ("topic", "messages"), ("message_id", &*id)]
    {
        assert_eq!(letter[member], value, "{letter:#}");
    }
    assert!(letter["detail"].as_str().unwrap().contains("subject"), "{letter:#}");
    let body = stack.psql("select convert_from(body, 'UTF8') from dead_letters").await;
    let row: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&row["id"], &row["message"]), (&json!(id), &json!("the bad row")), "{row:#}");
    assert_eq!(row["subject"], "a bell \u{7} rings", "its bytes, as they were");

    // It is confirmed: another watcher does not get it again.
    let slot = stack.namespace.clone();
    let is_past =
        format!("select confirmed_flush_lsn >= '{end}' from pg_replication_slots where slot_name = '{slot}'");
    until("the slot is past it", async || stack.psql(&is_past).await == "t").await;
    stack.kill("cdc-watcher").await;
    stack.up("cdc-watcher").await;
    let last = stack.publish("the last one").await;
    assert_eq!(stack.finished(&last).await["deliveries"]["sent"], 1);
    for text in ["before the bad row", "after the bad row", "the last one"] {
        assert_eq!(stack.mails(text), 1, "{text}");
    }
    assert_eq!(
        (stack.mails("the bad row"), stack.smtp.mails().len()),
        (2, 3),
        "in the texts of its neighbours only"
    );
    assert_eq!(stack.dead_letters().await.len(), 1);
    assert_eq!(stack.psql("select attempts from dead_letters").await, "1");
}
