//! Other parties on the same broker.

use std::collections::{BTreeMap, BTreeSet};

use lapin::{
    BasicProperties, ExchangeKind,
    types::{AMQPValue, FieldTable},
};
use tidings_domain::{
    ErrorKind,
    ports::{Queue, Settlement},
};
use tidings_rabbitmq::RabbitMq;
use tidings_servers::rabbitmq::RabbitMq as Server;

use crate::{
    foreign::Foreign,
    raw,
    stage::{SOON, Stage, declare, leases, number, options, publish, receive, settle, topic},
};

#[tokio::test]
async fn a_message_with_odd_headers_is_taken() {
    let stage = Stage::with(&["messages", "orders"]).await;
    let mut odd = FieldTable::default();
    let mut nested = FieldTable::default();
    nested.insert("deep".into(), AMQPValue::FieldArray(vec![AMQPValue::Void].into()));
    for (name, value) in [
        ("subject", AMQPValue::LongString("Hello".into())),
        ("latin", AMQPValue::LongString(vec![0xe9, 0xff].into())),
        ("number", AMQPValue::LongLongInt(-1)),
        ("flag", AMQPValue::Boolean(false)),
        ("double", AMQPValue::Double(-0.5)),
        ("time", AMQPValue::Timestamp(u64::MAX)),
        ("bytes", AMQPValue::ByteArray(vec![0, 1, 2].into())),
        ("table", AMQPValue::FieldTable(nested)),
        ("", AMQPValue::Void),
    ] {
        odd.insert(name.into(), value);
    }
    let properties = BasicProperties::default()
        .with_message_id("m-1".into())
        .with_content_type("text/markdown".into())
        .with_headers(odd);
    let foreign = Foreign::connect(&stage.url).await;
    foreign.publish("tidings-topic-orders", b"\xff\x00 not text", properties).await;
    foreign.publish("tidings-topic-orders", b"", BasicProperties::default()).await;
    let consumer = stage.bus.consume(Queue::Items, 5).await.unwrap();
    let received = receive(&*consumer, 2).await;
    let envelope = &received[0].envelope;
    let headers = [("subject", "Hello"), ("content-type", "text/markdown")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(envelope.headers, BTreeMap::from(headers));
    assert_eq!(envelope.native_id.as_deref(), Some("m-1"));
    assert_eq!(envelope.published_to.as_ref().unwrap().as_str(), "orders");
    assert_eq!(&*envelope.body, b"\xff\x00 not text");
    let bare = &received[1].envelope;
    assert!(bare.headers.is_empty() && bare.native_id.is_none() && bare.body.is_empty());
    settle(&*consumer, &leases(&received), Settlement::Done).await;
}

/// The client library ends the connection over such a message.
#[tokio::test]
async fn a_message_that_the_library_cannot_read_neither_stops_its_neighbours_nor_takes_them_along() {
    let stage = Stage::with(&["messages"]).await;
    publish(&*stage.bus, &topic("messages"), 0..3).await;
    raw::publish(&stage.url, "tidings-topic-messages", (b"caf\xe9", b"x"), b"unreadable").await;
    publish(&*stage.bus, &topic("messages"), 3..20).await;
    let mut came = BTreeSet::new();
    while came.len() < 20 {
        let Ok(consumer) = stage.bus.consume(Queue::Items, 100).await else { continue };
        while came.len() < 20
            && let Ok(received) = consumer.receive(100, SOON).await
        {
            assert!(!received.is_empty(), "only {} came", came.len());
            let most = received.iter().map(|received| received.returns).max();
            assert!(most < Some(100), "neighbours are counted up with it");
            came.extend(received.iter().map(number));
            let done = leases(&received).into_iter().map(|lease| (lease, Settlement::Done));
            let _ = consumer.settle(done.collect()).await;
        }
    }
    // In the end the broker moves it away.
    raw::fail_at(&stage.url, "tidings-items").await;
    let work = stage.another();
    let consumer = work.bus().consume(Queue::Items, 100).await.unwrap();
    // The safety net's own consumer stumbles over it too, on a connection of its own.
    let stumbling = work.bus().consume(Queue::ItemsDead, 10).await.unwrap();
    assert_eq!(stumbling.receive(1, SOON).await.unwrap_err().kind, ErrorKind::Unavailable);
    publish(&*work.bus(), &topic("messages"), 20..21).await;
    assert_eq!(number(&receive(&*consumer, 1).await[0]), 20);
}

#[tokio::test]
async fn what_was_published_carries_its_id_and_type_as_properties() {
    use futures::StreamExt as _;
    let stage = Stage::with(&["messages"]).await;
    let foreign = Foreign::connect(&stage.url).await;
    foreign.queue("theirs", FieldTable::default()).await;
    foreign.bind("theirs", "tidings-topic-messages").await;
    let mut message = crate::stage::message(7);
    message.headers.insert("content-type".to_owned(), "text/plain".to_owned());
    stage.bus.publish(&topic("messages"), vec![message]).await.remove(0).unwrap();
    let options = lapin::options::BasicConsumeOptions::default();
    let consuming = foreign.channel.basic_consume("theirs".into(), "".into(), options, FieldTable::default());
    let delivery = consuming.await.unwrap().next().await.unwrap().unwrap();
    let properties = &delivery.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), "00000007");
    assert_eq!(properties.content_type().as_ref().unwrap().as_str(), "text/plain");
    assert_eq!(*properties.delivery_mode(), Some(2), "it survives a restart");
}

#[tokio::test]
async fn a_clash_is_named() {
    let server = Server::shared().await;
    let url = server.vhost().await;
    let foreign = Foreign::connect(&url).await;
    foreign.exchange("tidings-topic-orders", ExchangeKind::Topic).await;
    let rabbitmq = RabbitMq::new(options(&url, server)).unwrap();
    let error = declare(&rabbitmq, &["orders"]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    for words in ["tidings-topic-orders", "type", "fanout", "topic"] {
        assert!(error.context.contains(words), "{words}: {}", error.context);
    }
    foreign.queue("tidings-mail", FieldTable::default()).await;
    let error = declare(&rabbitmq, &["messages"]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    for words in ["tidings-mail", "inequivalent arg", "received"] {
        assert!(error.context.contains(words), "{words}: {}", error.context);
    }
    // A failed step leaves nothing behind that the next would stumble on.
    server.delete_queue(&url, "tidings-mail").await;
    declare(&rabbitmq, &["messages"]).await.unwrap();
}

#[tokio::test]
async fn two_namespaces_do_not_see_each_other() {
    let blue = Stage::with(&["messages"]).await;
    let mut options = options(&blue.url, blue.server);
    options.namespace = "green".to_owned();
    let green = RabbitMq::new(options).unwrap();
    declare(&green, &["messages"]).await.unwrap();
    publish(&*green.bus(), &topic("messages"), 1..2).await;
    publish(&*blue.bus, &topic("messages"), 2..3).await;
    for (bus, expected) in [(green.bus(), 1), (blue.bus, 2)] {
        let consumer = bus.consume(Queue::Items, 5).await.unwrap();
        let received = receive(&*consumer, 1).await;
        assert_eq!(number(&received[0]), expected);
        assert_eq!(received[0].envelope.published_to.as_ref().unwrap().as_str(), "messages");
        crate::stage::nothing_comes(&*consumer).await;
    }
}
