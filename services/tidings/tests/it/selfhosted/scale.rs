//! Several of each: work is shared, one watcher reads, another takes over.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{Method, header};
use serde_json::Value;
use tidings_servers::proxy::Proxy;
use tokio::time::Instant;

use super::{
    foreign::Listener,
    servers::Servers,
    stack::{Stack, until},
};

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

/// A slot that the server takes back within seconds, and processes that notice sooner that they stood still.
const QUICK_TAKEOVER: [(&str, &str); 3] = [
    ("TIDINGS_STREAM_HEARTBEAT_INTERVAL_MS", "900"),
    ("TIDINGS_STREAM_SILENCE_LIMIT_MS", "3000"),
    ("TIDINGS_CDC_WATCHER_RETRY_MOST_MS", "200"),
];

/// How often the watchers freeze, one after the other.
const FREEZES: usize = 3;

/// Two watchers, the second standing by; nobody else's connections end by missing heartbeats while one is frozen.
async fn two_watchers() -> Stack {
    let mut stack = Stack::prepare(Servers::shared().await, &QUICK_TAKEOVER).await;
    stack.provision().await;
    let (database, amqp) = (stack.setting("DATABASE_URL").to_owned(), stack.setting("AMQP_URL").to_owned());
    let between = if database.contains('?') { '&' } else { '?' };
    for name in ["cdc-watcher", "watcher-2"] {
        let watcher = stack.make(name, &["cdc-watcher"]);
        watcher.set("DATABASE_URL", &format!("{database}{between}options=-c%20wal_sender_timeout%3D5s"));
        watcher.set("AMQP_URL", &format!("{amqp}?heartbeat=60"));
    }
    stack
}

async fn with_a_standby(stack: &mut Stack) {
    stack.up_all().await;
    stack.up_as("watcher-2", &["cdc-watcher"]).await;
    stack.process("watcher-2").until_state("replication", "standing_by").await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
}

/// One publish of a notification, as another party's queue has it.
#[derive(Debug)]
struct Publish {
    event_id: String,
    /// The same in every attempt of one watcher.
    published_at: String,
}

/// The publishes of a message's notification that another party has heard.
fn publishes(listener: &Listener, id: &str) -> Vec<Publish> {
    let heard = listener.heard();
    let of_id = heard.iter().filter(|message| message["headers"]["id"] == id);
    of_id
        .map(|message| {
            let record: Value = serde_json::from_str(message["body"].as_str().unwrap()).unwrap();
            let text = |name: &str| record[name].as_str().unwrap_or_else(|| panic!("{record:#}")).to_owned();
            Publish { event_id: text("eventId"), published_at: text("publishedAt") }
        })
        .collect()
}

/// What a watcher has in hand when it is stopped is published by its successor, and by nobody else.
#[tokio::test]
async fn a_frozen_watcher_loses_the_stream_and_publishes_nothing_when_it_thaws_with_pika() {
    let mut stack = two_watchers().await;
    with_a_standby(&mut stack).await;
    let listener = Listener::bind(&stack, &["notifications"]).await;
    // A queue that takes nothing: a publish reaches all others and is answered by a nack, so that it is made again and again.
    let rabbitmq = &stack.servers.rabbitmq;
    let (exchange, full) = (stack.name("notifications"), "full");
    rabbitmq.declare_queue(&stack.amqp, full, r#"{"x-max-length":0,"x-overflow":"reject-publish"}"#).await;
    let [mut reads, mut stands_by] = ["cdc-watcher", "watcher-2"];
    for round in 0..FREEZES {
        rabbitmq.bind(&stack.amqp, &exchange, full).await;
        let id = stack.publish(&format!("held back {round}")).await;
        until("it is tried again and again", async || publishes(&listener, &id).len() >= 3).await;
        stack.process(reads).signal("STOP").await;
        rabbitmq.unbind(&stack.amqp, &exchange, full).await;
        let frozen = publishes(&listener, &id)[0].published_at.clone();
        let is_successors = |publish: &Publish| publish.published_at != frozen;
        until("the other publishes it", async || publishes(&listener, &id).iter().any(is_successors)).await;
        stack.process(stands_by).until_state("cdc-watcher: changes", "up").await;
        let before = publishes(&listener, &id);

        stack.process(reads).signal("CONT").await;
        stack.process(reads).until_state("replication", "standing_by").await;
        let after = stack.publish(&format!("after it thawed {round}")).await;
        assert_eq!(stack.finished(&after).await["deliveries"]["sent"], 1);
        until("it is heard", async || !publishes(&listener, &after).is_empty()).await;
        let heard = publishes(&listener, &id);
        assert_eq!(heard.len(), before.len(), "round {round}, {reads} published when it thawed: {heard:#?}");
        assert_eq!(heard.iter().filter(|publish| is_successors(publish)).count(), 1, "{heard:#?}");
        assert!(heard.iter().all(|publish| publish.event_id == heard[0].event_id), "{heard:#?}");
        assert_eq!(publishes(&listener, &after).len(), 1);
        assert_eq!(stack.finished(&id).await["deliveries"]["sent"], 1);
        assert_eq!(stack.mails(&format!("held back {round}")), 1);
        (reads, stands_by) = (stands_by, reads);
    }
    assert_eq!(stack.smtp.mails().len(), 2 * FREEZES);
}

/// What has left the process cannot be called back: it arrives once more, and is the same event.
#[tokio::test]
async fn what_was_on_its_way_when_a_watcher_froze_is_the_same_event_for_everyone_with_pika() {
    let mut stack = two_watchers().await;
    let between = Proxy::to(stack.servers.rabbitmq.addr()).await;
    let amqp = format!("{}?heartbeat=60", between.url(&stack.amqp));
    stack.make("cdc-watcher", &["cdc-watcher"]).set("AMQP_URL", &amqp);
    with_a_standby(&mut stack).await;
    let listener = Listener::bind(&stack, &["notifications"]).await;
    let first = stack.publish("before").await;
    assert_eq!(stack.finished(&first).await["deliveries"]["sent"], 1);
    between.freeze();
    let id = stack.publish("on its way").await;
    let watcher = stack.process("cdc-watcher");
    until("it is sent and not confirmed", async || {
        watcher.total("tidings_rabbitmq_unconfirmed").await == 1.0
    })
    .await;
    watcher.signal("STOP").await;
    until("the other publishes it", async || publishes(&listener, &id).len() == 1).await;
    between.thaw();
    until("what was on its way arrives", async || publishes(&listener, &id).len() == 2).await;
    watcher.signal("CONT").await;
    watcher.until_state("replication", "standing_by").await;
    let after = stack.publish("after it thawed").await;
    assert_eq!(stack.finished(&after).await["deliveries"]["sent"], 1);
    let heard = publishes(&listener, &id);
    assert_eq!(heard.len(), 2, "{heard:#?}");
    assert_eq!(heard[0].event_id, heard[1].event_id, "{heard:#?}");
    assert_eq!(stack.finished(&id).await["deliveries"]["sent"], 1);
    assert_eq!(stack.smtp.mails().len(), 3, "nobody was mailed twice");
}
