//! What is too large.

use std::collections::BTreeMap;

use tidings_domain::{
    ErrorKind,
    ports::{Queue, Settlement},
    wire::Envelope,
};
use tidings_rabbitmq::RabbitMq;
use tidings_servers::rabbitmq::{RabbitMq as Server, RabbitMqOptions};

use crate::stage::{Stage, declare, leases, message, options, receive, settle, topic};

fn with_attributes(bytes: usize) -> Envelope {
    let headers = [("id".to_owned(), "large".to_owned()), ("attributes".to_owned(), "x".repeat(bytes))];
    Envelope { headers: BTreeMap::from(headers), ..message(0) }
}

#[tokio::test]
async fn headers_that_fit_no_frame_are_rejected_and_harm_no_neighbour() {
    let stage = Stage::with(&["messages"]).await;
    let batch = vec![message(1), with_attributes(200 * 1024), message(2)];
    let mut answers = stage.bus.publish(&topic("messages"), batch).await;
    answers.remove(0).unwrap();
    let error = answers.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Rejected);
    assert!(error.context.contains("frame_max"), "{}", error.context);
    answers.remove(0).unwrap();
    assert_eq!(stage.counts.of("tidings.rabbitmq.connections/publish"), 1, "a connection was lost");
}

#[tokio::test]
async fn the_largest_headers_that_are_taken_come_again_and_again() {
    let stage = Stage::with(&["messages"]).await;
    let largest = with_attributes(126_900);
    stage.bus.publish(&topic("messages"), vec![largest.clone()]).await.remove(0).unwrap();
    let consumer = stage.bus.consume(Queue::Items, 1).await.unwrap();
    // The broker adds its count to the headers: they still fit a frame.
    for _ in 0..3 {
        let received = receive(&*consumer, 1).await;
        assert_eq!(received[0].envelope.headers["attributes"], largest.headers["attributes"]);
        settle(&*consumer, &leases(&received), Settlement::Release).await;
    }
    let more = stage.bus.publish(&topic("messages"), vec![with_attributes(127_000)]).await.remove(0);
    assert_eq!(more.unwrap_err().kind, ErrorKind::Rejected, "the limit is elsewhere");
}

#[tokio::test]
async fn where_frames_may_be_larger_so_may_headers() {
    let settings = vec![("frame_max".to_owned(), "300000".to_owned())];
    let server = Server::start_with(RabbitMqOptions { settings, ..RabbitMqOptions::default() }).await;
    let url = format!("{}?frame_max=300000", server.vhost().await);
    let rabbitmq = RabbitMq::new(options(&url, &server)).unwrap();
    declare(&rabbitmq, &["messages"]).await.unwrap();
    let bus = rabbitmq.bus();
    let largest = with_attributes(255 * 1024);
    bus.publish(&topic("messages"), vec![largest.clone()]).await.remove(0).unwrap();
    let consumer = bus.consume(Queue::Items, 1).await.unwrap();
    let received = receive(&*consumer, 1).await;
    assert_eq!(received[0].envelope.headers, largest.headers);
}
