//! What a process uses is kept standing, where no api looks after it.

use std::time::Duration;

use lapin::types::FieldTable;
use tidings_domain::{
    ErrorKind,
    ports::{BusTopic, Queue},
    topic::TopicName,
};
use tidings_rabbitmq::RabbitMq;

use crate::{
    counts::Counts,
    foreign::Foreign,
    log::Log,
    stage::{SOON, Stage, message, number, options, publish, receive, topic},
};

const MISSING: &str = "tidings.topology.missing";
const NOTIFICATIONS: (&str, &str) = ("tidings-notifications", "tidings-mail");
const ORDERS: (&str, &str) = ("tidings-topic-orders", "tidings-items");

/// A process that never asks for topics, as all but the api are.
fn process(stage: &Stage, management: bool) -> (RabbitMq, Counts) {
    let counts = Counts::default();
    let mut options = options(&stage.url, stage.server);
    options.meter = counts.meter();
    if !management {
        options.management_url = None;
    }
    (RabbitMq::new(options).unwrap(), counts)
}

async fn is_bound(stage: &Stage, (exchange, queue): (&str, &str)) -> bool {
    !stage.server.bindings(&stage.url, exchange, queue).await.is_empty()
}

async fn unbind(stage: &Stage, (exchange, queue): (&str, &str)) {
    stage.server.unbind(&stage.url, exchange, queue).await;
}

async fn until_bound(stage: &Stage, pair: (&str, &str)) {
    let waiting = async {
        while !is_bound(stage, pair).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(SOON, waiting).await;
    assert!(waited.is_ok(), "{pair:?} is not bound again");
}

/// Publishes until one is taken; answers what those before it came to.
async fn until_taken(rabbitmq: &RabbitMq) -> Vec<ErrorKind> {
    let bus = rabbitmq.bus();
    let mut kinds = Vec::new();
    let publishing = async {
        while let Err(error) = bus.publish(&BusTopic::Notifications, vec![message(1)]).await.remove(0) {
            kinds.push(error.kind);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(SOON, publishing).await;
    assert!(waited.is_ok(), "never taken: {kinds:?}");
    kinds
}

/// A foreign queue, so that a publish is routed whatever becomes of ours.
async fn beside(stage: &Stage, exchange: &str) -> Foreign {
    let foreign = Foreign::connect(&stage.url).await;
    foreign.queue("theirs", FieldTable::default()).await;
    foreign.bind("theirs", exchange).await;
    foreign
}

#[tokio::test]
async fn a_publisher_alone_is_bound_again_beside_another_partys_queue_and_says_so() {
    let log = Log::global();
    let stage = Stage::with(&["messages"]).await;
    let (watcher, counts) = process(&stage, true);
    publish(&*watcher.bus(), &BusTopic::Notifications, 0..1).await;
    let _foreign = beside(&stage, NOTIFICATIONS.0).await;
    unbind(&stage, NOTIFICATIONS).await;
    until_bound(&stage, NOTIFICATIONS).await;
    crate::stage::until("it is counted", || counts.of(MISSING) == 1).await;
    let is_it = |line: &&String| {
        line.starts_with("ERROR") && line.contains("binding of tidings-mail to tidings-notifications")
    };
    crate::stage::until("it is said", || log.lines().iter().any(|line| is_it(&line))).await;
    watcher.close().await;
}

#[tokio::test]
async fn without_the_management_a_publisher_is_bound_again_unseen() {
    let stage = Stage::with(&["messages"]).await;
    let (watcher, counts) = process(&stage, false);
    publish(&*watcher.bus(), &BusTopic::Notifications, 0..1).await;
    let _foreign = beside(&stage, NOTIFICATIONS.0).await;
    unbind(&stage, NOTIFICATIONS).await;
    until_bound(&stage, NOTIFICATIONS).await;
    assert_eq!(counts.of(MISSING), 0);
}

/// Without the management only what a publish finds is counted.
#[tokio::test]
async fn what_comes_back_is_bound_again_by_whoever_published_it() {
    let stage = Stage::with(&["messages"]).await;
    let (watcher, counts) = process(&stage, false);
    unbind(&stage, NOTIFICATIONS).await;
    let kinds = until_taken(&watcher).await;
    assert_eq!(kinds.first(), Some(&ErrorKind::Misconfigured), "{kinds:?}");
    crate::stage::until("it is counted", || counts.of(MISSING) >= 1).await;
    let consumer = stage.bus.consume(Queue::Mail, 1).await.unwrap();
    assert_eq!(number(&receive(&*consumer, 1).await[0]), 1);
}

#[tokio::test]
async fn an_exchange_that_is_deleted_is_made_again_by_whoever_publishes_to_it() {
    let stage = Stage::with(&["messages"]).await;
    let (watcher, counts) = process(&stage, false);
    publish(&*watcher.bus(), &BusTopic::Notifications, 0..1).await;
    stage.server.delete_exchange(&stage.url, NOTIFICATIONS.0).await;
    let kinds = until_taken(&watcher).await;
    assert_eq!(kinds.first(), Some(&ErrorKind::Unknown), "{kinds:?}");
    crate::stage::until("it is counted", || counts.of(MISSING) >= 1).await;
    assert!(is_bound(&stage, NOTIFICATIONS).await);
}

#[tokio::test]
async fn a_consumer_alone_keeps_topics_bound_that_it_has_never_heard_of() {
    let stage = Stage::with(&["messages", "orders"]).await;
    let (subscriber, counts) = process(&stage, true);
    let _consumer = subscriber.bus().consume(Queue::Items, 1).await.unwrap();
    let _foreign = beside(&stage, ORDERS.0).await;
    unbind(&stage, ORDERS).await;
    until_bound(&stage, ORDERS).await;
    crate::stage::until("it is counted", || counts.of(MISSING) == 1).await;
}

#[tokio::test]
async fn without_the_management_a_consumer_keeps_topics_bound_through_which_messages_came() {
    let stage = Stage::with(&["messages", "orders"]).await;
    let (subscriber, _) = process(&stage, false);
    let consumer = subscriber.bus().consume(Queue::Items, 1).await.unwrap();
    publish(&*stage.bus, &topic("orders"), 0..1).await;
    receive(&*consumer, 1).await;
    unbind(&stage, ORDERS).await;
    until_bound(&stage, ORDERS).await;
}

#[tokio::test]
async fn a_deleted_queue_gets_the_bindings_of_all_topics_back_with_its_next_consumer() {
    for management in [true, false] {
        let stage = Stage::with(&["messages", "orders"]).await;
        let (subscriber, counts) = process(&stage, management);
        let consumer = subscriber.bus().consume(Queue::Items, 1).await.unwrap();
        if !management {
            publish(&*stage.bus, &topic("orders"), 0..1).await;
            receive(&*consumer, 1).await;
        }
        stage.server.delete_queue(&stage.url, ORDERS.1).await;
        assert_eq!(consumer.receive(1, SOON).await.unwrap_err().kind, ErrorKind::Unavailable);
        let _consumer = subscriber.bus().consume(Queue::Items, 1).await.unwrap();
        assert!(
            is_bound(&stage, ORDERS).await && is_bound(&stage, ("tidings-topic-messages", ORDERS.1)).await
        );
        assert_eq!(counts.of(MISSING), 1);
    }
}

#[tokio::test]
async fn what_somebody_looks_after_is_theirs_to_mend_and_to_count() {
    let stage = Stage::with(&["messages", "orders"]).await;
    publish(&*stage.bus, &topic("orders"), 0..1).await;
    unbind(&stage, ORDERS).await;
    let answer = stage.bus.publish(&topic("orders"), vec![message(1)]).await.remove(0);
    assert_eq!(answer.unwrap_err().kind, ErrorKind::Misconfigured);
    let topics = [TopicName::messages(), TopicName::parse("orders").unwrap()];
    let missing = stage.rabbitmq.topology().verify(&topics).await.unwrap();
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(stage.counts.of(MISSING), 0);
}
