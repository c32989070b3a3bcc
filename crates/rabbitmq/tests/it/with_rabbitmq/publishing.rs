//! Publishes that fail, and their neighbours.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use tidings_domain::{ErrorKind, ports::Queue};

use crate::{
    foreign::Foreign,
    log::Log,
    stage::{Stage, declare, message, number, publish, receive, topic},
};

#[tokio::test]
async fn a_missing_exchange_is_said_and_harms_no_other_topic() {
    let stage = Stage::with(&["messages", "orders"]).await;
    let (messages, orders) = (topic("messages"), topic("orders"));
    publish(&*stage.bus, &orders, 0..1).await;
    publish(&*stage.bus, &messages, 1..2).await;
    stage.server.delete_exchange(&stage.url, "tidings-topic-orders").await;
    // Known to stand, and gone: its channel ends, and nobody else's.
    let (lost, well) = futures::join!(
        stage.bus.publish(&orders, (10..30).map(message).collect()),
        stage.bus.publish(&messages, (30..60).map(message).collect())
    );
    for answer in lost {
        assert_eq!(answer.unwrap_err().kind, ErrorKind::Unknown);
    }
    for answer in well {
        answer.unwrap();
    }
    // From now on it is known to be missing.
    for _ in 0..3 {
        let answer = stage.bus.publish(&orders, vec![message(60)]).await.remove(0);
        assert_eq!(answer.unwrap_err().kind, ErrorKind::NotFound);
    }
    declare(&stage.rabbitmq, &["orders"]).await.unwrap();
    publish(&*stage.bus, &orders, 61..62).await;
}

#[tokio::test]
async fn what_a_full_queue_of_another_party_refuses_is_unknown() {
    let stage = Stage::with(&["messages"]).await;
    let foreign = Foreign::connect(&stage.url).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(0));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    foreign.queue("theirs", arguments).await;
    foreign.bind("theirs", "tidings-topic-messages").await;
    let answer = stage.bus.publish(&topic("messages"), vec![message(0)]).await.remove(0);
    assert_eq!(answer.unwrap_err().kind, ErrorKind::Unknown);
    // And rightly so: ours has it.
    let consumer = stage.bus.consume(Queue::Items, 5).await.unwrap();
    assert_eq!(number(&receive(&*consumer, 1).await[0]), 0);
}

/// The client library logs each returned message with its headers and body.
#[tokio::test]
async fn what_comes_back_is_not_in_the_log() {
    let log = Log::global();
    let stage = Stage::with(&["messages"]).await;
    stage.server.unbind(&stage.url, "tidings-topic-messages", "tidings-items").await;
    let mut secret = message(0);
    // A property, which is logged as text; bodies and headers are logged as numbers.
    secret.headers.insert("id".to_owned(), "hush-id".to_owned());
    let answer = stage.bus.publish(&topic("messages"), vec![secret]).await.remove(0);
    assert_eq!(answer.unwrap_err().kind, ErrorKind::Misconfigured);
    let lines = log.lines();
    assert!(lines.iter().any(|line| line.contains("connected to the broker")), "the log hears nothing");
    assert!(!lines.iter().any(|line| line.contains("hush")), "{lines:?}");
}

#[tokio::test]
async fn a_caller_who_goes_leaves_the_channel_to_others() {
    let stage = Stage::with(&["messages"]).await;
    let messages = topic("messages");
    for patience_us in [0, 50, 200, 1000, 3000] {
        let publishing = stage.bus.publish(&messages, (100..120).map(message).collect());
        let _ = tokio::time::timeout(Duration::from_micros(patience_us), publishing).await;
    }
    publish(&*stage.bus, &messages, 0..5).await;
}

#[tokio::test]
async fn more_topics_than_channels_are_published_to_at_once() {
    let names: Vec<String> = (0..40).map(|number| format!("topic-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let stage = Stage::with(&names).await;
    let publishing = names.iter().map(|name| async {
        publish(&*stage.bus, &topic(name), 0..10).await;
    });
    futures::future::join_all(publishing).await;
}
