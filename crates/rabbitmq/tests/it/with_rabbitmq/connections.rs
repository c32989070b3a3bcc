//! Connections that are closed, frozen and slow.

use std::time::Duration;

use tidings_domain::{
    ErrorKind,
    ports::{Queue, Settlement},
};
use tidings_rabbitmq::RabbitMq;
use tidings_servers::{proxy::Proxy, rabbitmq::RabbitMq as Server};

use crate::stage::{
    CONFIRM, SOON, Stage, declare, message, nothing_comes, options, publish, receive, topic, until,
    until_down, until_up,
};

#[tokio::test]
async fn a_forced_close_ends_consumers_and_flow_goes_on() {
    let server = Server::start().await;
    let url = server.vhost().await;
    let rabbitmq = RabbitMq::new(options(&url, &server)).unwrap();
    declare(&rabbitmq, &["messages"]).await.unwrap();
    let (bus, messages) = (rabbitmq.bus(), topic("messages"));
    publish(&*bus, &messages, 0..6).await;
    let consumer = bus.consume(Queue::Items, 5).await.unwrap();
    let held = receive(&*consumer, 2).await;
    // Three more lie in this process when the connection goes: an answer over it comes behind them.
    declare(&rabbitmq, &["messages"]).await.unwrap();
    assert!(!consumer.is_lost());
    server.close_connections().await;
    until("the end is seen", || consumer.is_lost()).await;
    // One at a time, as a loop does that has room for one more: nothing of the dead channel is handed out.
    let error = consumer.receive(1, SOON).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    let error = consumer.receive(5, SOON).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    for answer in consumer.extend(&[held[0].lease]).await {
        assert_eq!(answer.unwrap_err().kind, ErrorKind::LeaseLost);
    }
    for answer in consumer.settle(vec![(held[0].lease, Settlement::Done)]).await {
        assert_eq!(answer.unwrap_err().kind, ErrorKind::LeaseLost);
    }
    // The next publish finds the connection gone or waits for the new one.
    publish(&*bus, &messages, 6..7).await;
    let consumer = bus.consume(Queue::Items, 10).await.unwrap();
    assert!(!consumer.is_lost());
    assert_eq!(receive(&*consumer, 7).await.len(), 7);
    nothing_comes(&*consumer).await;
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_given_up_and_found_again() {
    let stage = Stage::with(&["messages"]).await;
    let proxy = Proxy::to(stage.server.addr()).await;
    let url = format!("{}?heartbeat=1", proxy.url(&stage.url));
    let rabbitmq = RabbitMq::new(options(&url, stage.server)).unwrap();
    let (bus, messages) = (rabbitmq.bus(), topic("messages"));
    publish(&*bus, &messages, 0..1).await;
    let consumer = bus.consume(Queue::Items, 1).await.unwrap();
    receive(&*consumer, 1).await;
    proxy.freeze();
    let limit = CONFIRM + Duration::from_secs(10);
    let answered = tokio::time::timeout(limit, bus.publish(&messages, vec![message(1)])).await;
    let kind = answered.expect("bounded").remove(0).unwrap_err().kind;
    assert_eq!(kind, ErrorKind::Unknown);
    assert_eq!(consumer.receive(1, SOON).await.unwrap_err().kind, ErrorKind::Unavailable);
    until_down(&rabbitmq, "broker").await;
    // Attempts meanwhile hang and are given up too.
    let error = bus.consume(Queue::Items, 1).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    proxy.thaw();
    until_up(&rabbitmq).await;
    publish(&*bus, &messages, 2..3).await;
    rabbitmq.close().await;
}

#[tokio::test]
async fn a_slow_connection_makes_unknowns_and_no_more() {
    let stage = Stage::with(&["messages"]).await;
    let proxy = Proxy::to(stage.server.addr()).await;
    let rabbitmq = RabbitMq::new(options(&proxy.url(&stage.url), stage.server)).unwrap();
    let (bus, messages) = (rabbitmq.bus(), topic("messages"));
    publish(&*bus, &messages, 0..1).await;
    proxy.throttle(20_000);
    let mut large = message(1);
    large.body = vec![b'x'; 200_000].into();
    let answered =
        tokio::time::timeout(CONFIRM + Duration::from_secs(10), bus.publish(&messages, vec![large])).await;
    assert_eq!(answered.expect("bounded").remove(0).unwrap_err().kind, ErrorKind::Unknown);
    proxy.throttle(0);
    publish(&*bus, &messages, 2..3).await;
    let consumer = bus.consume(Queue::Items, 10).await.unwrap();
    receive(&*consumer, 2).await;
}
