//! Several of each: work is shared, one watcher reads, another takes over.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{Method, header};
use serde_json::Value;
use tokio::time::Instant;

use super::stack::{Stack, until};

/// Posts to an api by its address; the id.
async fn post(stack: &Stack, url: &str, text: &str) -> String {
    let request = stack.client.request(Method::POST, format!("{url}/v1/topics/messages/messages"));
    let request = request.header(header::CONTENT_TYPE, "text/plain").body(text.to_owned());
    stack.ok(request).await["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn two_of_each_share_the_work_and_a_standby_takes_over() {
    let mut stack = Stack::start().await;
    for (name, role) in [("api-2", "api"), ("subscriber-2", "subscriber"), ("mailer-2", "mailer")] {
        stack.up_as(name, &[role]).await;
    }
    stack.up_as("watcher-2", &["cdc-watcher"]).await;
    let report = stack.process("watcher-2").until_state("replication", "standing_by").await;
    assert_eq!(report["ready"], true, "standing by is being ready: {report:#}");
    stack.subscribe_confirmed(&["reader@example.com"]).await;

    let second = stack.process("api-2").url.clone().unwrap();
    // Made by one api, a topic is known to the other at its first look.
    let mut ids = BTreeSet::new();
    for number in 0..200 {
        let url = if number % 2 == 0 { &stack.url } else { &second };
        ids.insert(post(&stack, url, &format!("shared {number:03}")).await);
    }
    for id in &ids {
        let status = stack.finished(id).await;
        assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    }
    assert_eq!(stack.smtp.mails().len(), 200, "each once");

    // kill -9 of the one that reads: the slot is the lease, and the other has it as soon as the server sees the end.
    stack.kill("cdc-watcher").await;
    let began = Instant::now();
    let id = post(&stack, &stack.url, "after the takeover").await;
    let status = stack.finished(&id).await;
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    stack.process("watcher-2").until_state("replication", "up").await;
    // The first comes back and stands by now.
    stack.up("cdc-watcher").await;
    stack.process("cdc-watcher").until_state("replication", "standing_by").await;

    // One of each goes as asked: the others go on.
    for name in ["api-2", "subscriber", "mailer", "watcher-2"] {
        stack.stop(name).await;
    }
    let id = stack.publish("with one of each").await;
    assert_eq!(stack.finished(&id).await["deliveries"]["sent"], 1);
    assert_eq!(stack.smtp.mails().len(), 202, "nobody was mailed twice");
    assert_eq!(stack.dead_letters().await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_frozen_watcher_loses_the_stream_and_publishes_nothing_when_it_thaws() {
    let mut stack = Stack::start().await;
    stack.up_as("watcher-2", &["cdc-watcher"]).await;
    stack.process("watcher-2").until_state("replication", "standing_by").await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    stack.process("cdc-watcher").signal("STOP").await;
    let id = stack.publish("while it is frozen").await;
    let status = stack.finished(&id).await;
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    stack.process("cdc-watcher").signal("CONT").await;
    stack.process("cdc-watcher").until_state("replication", "standing_by").await;
    let id = stack.publish("after it thawed").await;
    assert_eq!(stack.finished(&id).await["deliveries"]["sent"], 1);
    until("two mails", async || stack.smtp.mails().len() >= 2).await;
    assert_eq!(stack.smtp.mails().len(), 2);
}
