//! Consumers and what ends them.

use tidings_domain::{
    ErrorKind,
    ports::{Queue, Settlement},
};

use crate::{
    foreign::Foreign,
    stage::{SOON, Stage, leases, number, publish, receive, settle, topic},
};

#[tokio::test]
async fn a_deleted_queue_ends_its_consumer_and_stands_again_with_the_next() {
    let stage = Stage::with(&["messages", "orders"]).await;
    let consumer = stage.bus.consume(Queue::Items, 5).await.unwrap();
    publish(&*stage.bus, &topic("messages"), 0..1).await;
    receive(&*consumer, 1).await;
    stage.server.delete_queue(&stage.url, "tidings-items").await;
    let error = consumer.receive(1, SOON).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    // It stays ended.
    assert!(consumer.receive(1, SOON).await.is_err());
    let consumer = stage.bus.consume(Queue::Items, 5).await.unwrap();
    for exchange in ["tidings-topic-messages", "tidings-topic-orders"] {
        assert_eq!(stage.server.bindings(&stage.url, exchange, "tidings-items").await, [""], "{exchange}");
    }
    publish(&*stage.bus, &topic("orders"), 1..2).await;
    assert_eq!(number(&receive(&*consumer, 1).await[0]), 1);
}

#[tokio::test]
async fn a_process_that_never_declared_restores_the_queue_of_the_topic_that_always_exists() {
    let stage = Stage::with(&["messages"]).await;
    stage.server.delete_queue(&stage.url, "tidings-mail").await;
    stage.server.delete_queue(&stage.url, "tidings-items").await;
    let subscriber = stage.another();
    let consumer = subscriber.bus().consume(Queue::Items, 5).await.unwrap();
    publish(&*stage.bus, &topic("messages"), 0..1).await;
    receive(&*consumer, 1).await;
    assert_eq!(stage.server.bindings(&stage.url, "tidings-notifications", "tidings-mail").await, [""]);
}

#[tokio::test]
async fn returns_are_the_brokers_count() {
    let stage = Stage::with(&["messages"]).await;
    publish(&*stage.bus, &topic("messages"), 0..1).await;
    Foreign::connect(&stage.url).await.fail_at("tidings-items", 3).await;
    let consumer = stage.bus.consume(Queue::Items, 1).await.unwrap();
    let received = receive(&*consumer, 1).await;
    // A reject counts everywhere; that the foreign consumer then held it once more when it went counts before 4.3.
    assert!((3..=4).contains(&received[0].returns), "{}", received[0].returns);
}

#[tokio::test]
async fn what_kills_its_consumers_too_often_is_in_the_safety_net_with_its_topic() {
    let stage = Stage::with(&["messages", "orders"]).await;
    publish(&*stage.bus, &topic("orders"), 7..8).await;
    let foreign = Foreign::connect(&stage.url).await;
    foreign.fail_at("tidings-items", 1001).await;
    let dead = stage.bus.consume(Queue::ItemsDead, 1).await.unwrap();
    let received = receive(&*dead, 1).await;
    assert_eq!(number(&received[0]), 7);
    assert_eq!(received[0].envelope.published_to.as_ref().unwrap().as_str(), "orders");
    assert_eq!(received[0].envelope.headers["x-first-death-reason"], "delivery_limit");
    settle(&*dead, &leases(&received), Settlement::Done).await;
}
