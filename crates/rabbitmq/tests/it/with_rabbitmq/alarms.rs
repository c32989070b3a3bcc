//! The broker's memory alarm: it takes no publish, and everything else goes on.

use std::time::Duration;

use tidings_domain::{
    ErrorKind,
    ports::{Queue, Settlement},
};
use tidings_rabbitmq::RabbitMq;
use tidings_servers::rabbitmq::RabbitMq as Server;

use crate::stage::{
    CONFIRM, declare, leases, message, number, options, publish, receive, settle, topic, until_down, until_up,
};

#[tokio::test]
async fn publishes_are_bounded_and_the_rest_goes_on() {
    let server = Server::start().await;
    let url = server.vhost().await;
    let rabbitmq = RabbitMq::new(options(&url, &server)).unwrap();
    declare(&rabbitmq, &["messages"]).await.unwrap();
    let (bus, messages) = (rabbitmq.bus(), topic("messages"));
    publish(&*bus, &messages, 0..4).await;
    let consumer = bus.consume(Queue::Items, 2).await.unwrap();
    let held = receive(&*consumer, 2).await;

    server.raise_alarm().await;
    let limit = CONFIRM + Duration::from_secs(10);
    let first = tokio::time::timeout(limit, bus.publish(&messages, vec![message(4)])).await;
    let kind = first.expect("bounded").remove(0).unwrap_err().kind;
    assert!(matches!(kind, ErrorKind::Unknown | ErrorKind::Unavailable), "{kind}");
    until_down(&rabbitmq, "memory").await;
    // Known by now: nothing is sent.
    let answers =
        tokio::time::timeout(Duration::from_secs(1), bus.publish(&messages, vec![message(5)])).await;
    assert_eq!(answers.expect("at once").remove(0).unwrap_err().kind, ErrorKind::Unavailable);
    // Acknowledging and declaring go over the other connection.
    settle(&*consumer, &leases(&held), Settlement::Done).await;
    let more = receive(&*consumer, 2).await;
    settle(&*consumer, &leases(&more), Settlement::Done).await;
    declare(&rabbitmq, &["messages", "orders"]).await.unwrap();

    server.clear_alarm().await;
    until_up(&rabbitmq).await;
    publish(&*bus, &messages, 6..7).await;
    // The one of unknown outcome may have been taken after all.
    let mut came = Vec::new();
    while !came.contains(&6) {
        came.extend(receive(&*consumer, 1).await.iter().map(number));
    }
    assert!(!came.contains(&5), "what was answered as not sent was sent");
    rabbitmq.close().await;
}
