//! Unbinding, with and without another party's queue.

use std::{collections::BTreeSet, time::Duration};

use lapin::types::FieldTable;
use tidings_domain::{
    ErrorKind,
    ports::{BusTopic, Queue},
    topic::TopicName,
};
use tidings_rabbitmq::RabbitMq;

use crate::{
    foreign::Foreign,
    stage::{Stage, declare, message, number, options, publish, receive, topic},
};

const EXCHANGE: &str = "tidings-topic-messages";
const QUEUE: &str = "tidings-items";

#[tokio::test]
async fn without_a_binding_a_publish_comes_back_and_one_that_was_mended_goes() {
    let stage = Stage::with(&["messages"]).await;
    stage.server.unbind(&stage.url, EXCHANGE, QUEUE).await;
    let answers = stage.bus.publish(&topic("messages"), (0..20).map(message).collect()).await;
    assert_eq!(answers.len(), 20);
    for answer in answers {
        assert_eq!(answer.unwrap_err().kind, ErrorKind::Misconfigured);
    }
    assert_eq!(stage.counts.of("tidings.rabbitmq.publishes/misconfigured"), 20);
    declare(&stage.rabbitmq, &["messages"]).await.unwrap();
    publish(&*stage.bus, &topic("messages"), 0..20).await;
}

#[tokio::test]
async fn a_missing_binding_is_seen_also_while_another_partys_queue_is_bound() {
    let stage = Stage::with(&["messages"]).await;
    let foreign = Foreign::connect(&stage.url).await;
    foreign.queue("theirs", FieldTable::default()).await;
    foreign.bind("theirs", EXCHANGE).await;
    stage.server.unbind(&stage.url, EXCHANGE, QUEUE).await;
    // Nobody can tell by publishing: it is taken.
    publish(&*stage.bus, &topic("messages"), 0..1).await;
    let topology = stage.rabbitmq.topology();
    let missing = topology.verify(&[TopicName::messages()]).await.unwrap();
    assert_eq!(missing.len(), 1);
    assert!(missing[0].name.contains(EXCHANGE) && missing[0].name.contains(QUEUE), "{missing:?}");
    assert!(stage.server.bindings(&stage.url, EXCHANGE, QUEUE).await.is_empty(), "verify has bound it");
    topology.declare(&[TopicName::messages()]).await.unwrap();
    publish(&*stage.bus, &topic("messages"), 1..2).await;
    let consumer = stage.bus.consume(Queue::Items, 5).await.unwrap();
    assert_eq!(number(&receive(&*consumer, 1).await[0]), 1);
}

#[tokio::test]
async fn without_the_management_a_look_sees_no_binding_and_makes_nothing() {
    let stage = Stage::with(&["messages"]).await;
    stage.server.unbind(&stage.url, EXCHANGE, QUEUE).await;
    for declares in [true, false] {
        let mut blind = options(&stage.url, stage.server);
        blind.management_url = None;
        blind.declares = declares;
        let blind = RabbitMq::new(blind).unwrap();
        let topics = [TopicName::messages(), TopicName::parse("orders").unwrap()];
        let missing = blind.topology().verify(&topics).await.unwrap();
        assert_eq!(missing.len(), 1, "only the exchange is seen: {missing:?}");
        assert_eq!(missing[0].name, "tidings-topic-orders");
        let bindings = stage.server.bindings(&stage.url, EXCHANGE, QUEUE).await;
        assert!(bindings.is_empty(), "bound with declares = {declares}");
    }
}

#[tokio::test]
async fn a_management_that_is_away_is_no_failure() {
    let stage = Stage::with(&["messages"]).await;
    let mut deaf = options(&stage.url, stage.server);
    // AMQP is no HTTP.
    deaf.management_url = Some(format!("http://guest:guest@{}", stage.server.addr()));
    let deaf = RabbitMq::new(deaf).unwrap();
    stage.server.unbind(&stage.url, EXCHANGE, QUEUE).await;
    assert_eq!(deaf.topology().verify(&[TopicName::messages()]).await.unwrap(), []);
    assert!(stage.server.bindings(&stage.url, EXCHANGE, QUEUE).await.is_empty(), "verify has bound it");
    let state = deaf.dependency().state();
    assert!(matches!(state, tidings_domain::ports::DependencyState::Degraded(_)), "{state:?}");
}

/// The client library hands a returned message to whichever confirm comes next: were that believed, a message that came back
/// would be answered as taken, and its neighbour as returned.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_that_goes_under_load_makes_no_lost_message_a_confirmed_one() {
    const PUBLISHERS: usize = 8;
    const EACH: usize = 40;
    const BATCH: usize = 64;
    let stage = Stage::with(&["messages"]).await;
    let messages = topic("messages");
    let publishing = (0..PUBLISHERS).map(|publisher| {
        let (bus, messages): (_, &BusTopic) = (&stage.bus, &messages);
        async move {
            let mut taken = Vec::new();
            let mut refused = 0;
            for round in 0..EACH {
                let first = (publisher * EACH + round) * BATCH;
                let answers = bus.publish(messages, (first..first + BATCH).map(message).collect()).await;
                for (number, answer) in (first..).zip(answers) {
                    match answer {
                        Ok(()) => taken.push(number),
                        Err(_) => refused += 1,
                    }
                }
            }
            (taken, refused)
        }
    });
    let unbinding = async {
        for _ in 0..10 {
            stage.server.unbind(&stage.url, EXCHANGE, QUEUE).await;
            tokio::task::yield_now().await;
            stage.server.bind(&stage.url, EXCHANGE, QUEUE).await;
        }
    };
    let (outcomes, ()) = futures::join!(futures::future::join_all(publishing), unbinding);
    let taken: BTreeSet<usize> = outcomes.iter().flat_map(|(taken, _)| taken.iter().copied()).collect();
    let refused: usize = outcomes.iter().map(|(_, refused)| refused).sum();
    assert!(refused > 0, "the binding was never missed: this shows nothing");
    let consumer = stage.bus.consume(Queue::Items, 2000).await.unwrap();
    let mut came = BTreeSet::new();
    while !taken.is_subset(&came) {
        let received = consumer.receive(500, Duration::from_secs(2)).await.unwrap();
        assert!(
            !received.is_empty(),
            "confirmed and lost: {:?}",
            taken.difference(&came).collect::<Vec<_>>()
        );
        came.extend(received.iter().map(number));
        let done = received.iter().map(|received| (received.lease, tidings_domain::ports::Settlement::Done));
        consumer.settle(done.collect()).await;
    }
}
