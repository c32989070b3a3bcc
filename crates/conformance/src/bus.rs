//! `Bus`: publishing, and what becomes of it. Consumers are in [`crate::consuming`].

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tidings_domain::{
    ErrorKind,
    ports::{Bus, BusTopic, Consumer, Queue, Received, Settlement},
    text::MAX_MESSAGE_BYTES,
    wire::Envelope,
};
use tokio::task::JoinSet;

use crate::{
    Disturbance, Fixture, Need,
    runner::suite,
    samples::{envelope, topic},
};

suite!(Bus {
    what_is_published_is_handed_out_and_settled_once,
    a_publish_waits_in_the_queue_for_its_consumer,
    bodies_and_headers_come_as_they_were_sent,
    the_largest_message_is_carried,
    a_publish_over_the_limit_is_rejected_alone,
    a_long_batch_is_answered_in_order,
    an_undeclared_topic_takes_nothing,
    an_unbound_topic_takes_nothing [Need::Disturb(Disturbance::Unbind)],
    a_publish_while_blocked_is_bounded [Need::Disturb(Disturbance::Blocked)],
    a_bus_that_is_away_is_unavailable [Need::Disturb(Disturbance::Unavailable)],
    topics_fan_in_and_queues_are_apart,
    many_publishers_and_consumers_lose_nothing,
    a_restart_keeps_what_was_confirmed [Need::Disturb(Disturbance::Restart)],
});

/// How long a message may take to come.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// How long is waited to see that none comes.
const QUIET: Duration = Duration::from_millis(300);

pub(crate) fn messages() -> BusTopic {
    BusTopic::Messages(topic("messages"))
}

pub(crate) async fn publish(bus: &dyn Bus, to: &BusTopic, bodies: &[&str]) {
    let batch = bodies.iter().map(|body| envelope(body.to_string())).collect();
    let answers = bus.publish(to, batch).await;
    assert_eq!(answers.len(), bodies.len(), "one answer for each entry");
    for (body, answer) in bodies.iter().zip(answers) {
        answer.unwrap_or_else(|error| panic!("publish {body:?}: {}", error.chain()));
    }
}

/// Receives until `count` have come.
pub(crate) async fn receive(consumer: &dyn Consumer, count: usize) -> Vec<Received> {
    let mut all = Vec::new();
    while all.len() < count {
        let received = consumer.receive(count - all.len(), SOON).await.expect("receive");
        assert!(!received.is_empty(), "{} of {count} messages came within {SOON:?}", all.len());
        all.extend(received);
    }
    assert_eq!(all.len(), count, "receive handed out more than it was asked for");
    all
}

pub(crate) async fn nothing_comes(consumer: &dyn Consumer) {
    let received = consumer.receive(10, QUIET).await.expect("receive");
    assert!(received.is_empty(), "nothing was to come, but {received:?}");
}

pub(crate) async fn settle(consumer: &dyn Consumer, received: &[Received], settlement: Settlement) {
    let answers = consumer.settle(received.iter().map(|message| (message.lease, settlement)).collect()).await;
    assert_eq!(answers.len(), received.len(), "one answer for each settlement");
    for answer in answers {
        answer.unwrap_or_else(|error| panic!("settle: {}", error.chain()));
    }
}

/// The bodies, sorted: no bus promises an order.
pub(crate) fn bodies(received: &[Received]) -> Vec<&str> {
    let mut bodies: Vec<&str> =
        received.iter().map(|m| std::str::from_utf8(&m.envelope.body).expect("text")).collect();
    bodies.sort_unstable();
    bodies
}

async fn what_is_published_is_handed_out_and_settled_once(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    publish(&*bus, &messages(), &["one"]).await;
    let received = receive(&*consumer, 1).await;
    assert_eq!(received[0].envelope.body, "one");
    assert_eq!(received[0].returns, 0, "a first time is no return");
    settle(&*consumer, &received, Settlement::Done).await;
    nothing_comes(&*consumer).await;
}

async fn a_publish_waits_in_the_queue_for_its_consumer(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["one", "two"]).await;
    let other = fixture.open().await.bus();
    let consumer = other.consume(Queue::Items, 10).await.expect("consume");
    assert_eq!(bodies(&receive(&*consumer, 2).await), ["one", "two"]);
}

async fn bodies_and_headers_come_as_they_were_sent(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let headers = BTreeMap::from([
        ("id".to_owned(), "0190aaaa-0000-7000-8000-000000000001".to_owned()),
        ("topic".to_owned(), "messages".to_owned()),
        ("subject".to_owned(), "Zażółć gęślą jaźń 🎉 \"quoted\" 'single'".to_owned()),
        ("content-type".to_owned(), "application/json; charset=utf-8".to_owned()),
        ("accepted-at".to_owned(), "2026-01-01T00:00:00.000Z".to_owned()),
        ("traceparent".to_owned(), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned()),
        ("tracestate".to_owned(), "a=b,c=d".to_owned()),
        ("attributes".to_owned(), r#"{"ключ":["значение",1.5,true],"tab":"\t"}"#.to_owned()),
    ]);
    let sent =
        ["x", " \t\r\n leading and trailing \r\n", "]]> <&> \u{85}\u{a0} 漢字 🎉\u{200b}", "{\"a\":1}"];
    let batch = sent.iter().map(|body| Envelope {
        headers: headers.clone(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        native_id: None,
        published_to: None,
    });
    let answers = bus.publish(&messages(), batch.collect()).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    let received = receive(&*consumer, sent.len()).await;
    let mut expected = sent.to_vec();
    expected.sort_unstable();
    assert_eq!(bodies(&received), expected);
    for message in received {
        assert_eq!(message.envelope.headers, headers);
        let published_to = message.envelope.published_to;
        assert!(
            published_to.is_none_or(|name| name == topic("messages")),
            "published_to names another topic"
        );
    }
}

async fn the_largest_message_is_carried(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let mut largest = envelope("ü".repeat(MAX_MESSAGE_BYTES / 2));
    for name in ["id", "topic", "accepted-at", "traceparent"] {
        largest.headers.insert(name.to_owned(), "x".repeat(55));
    }
    let answers = bus.publish(&messages(), vec![largest.clone()]).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let consumer = bus.consume(Queue::Items, 1).await.expect("consume");
    let received = receive(&*consumer, 1).await;
    assert!(received[0].envelope.body == largest.body, "the body differs");
    assert_eq!(received[0].envelope.headers, largest.headers);
}

async fn a_publish_over_the_limit_is_rejected_alone(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let over = "x".repeat(bus.capabilities().max_publish_bytes + 1);
    let batch = vec![envelope("before"), envelope(over), envelope("after")];
    let answers = bus.publish(&messages(), batch).await;
    assert_eq!(answers.len(), 3);
    assert!(
        answers[0].is_ok() && answers[2].is_ok(),
        "its neighbours were taken: {:?} {:?}",
        answers[0],
        answers[2]
    );
    assert_eq!(answers[1].as_ref().expect_err("it is too large").kind, ErrorKind::Rejected);
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    assert_eq!(bodies(&receive(&*consumer, 2).await), ["after", "before"]);
    nothing_comes(&*consumer).await;
}

async fn a_long_batch_is_answered_in_order(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let count = bus.capabilities().max_batch.min(1000) + 3;
    let over = bus.capabilities().max_publish_bytes + 1;
    let mut batch: Vec<Envelope> = (0..count).map(|number| envelope(format!("{number:05}"))).collect();
    batch[count - 2] = envelope("x".repeat(over));
    let answers = bus.publish(&messages(), batch).await;
    let refused: Vec<usize> =
        answers.iter().enumerate().filter_map(|(i, answer)| answer.is_err().then_some(i)).collect();
    assert_eq!((answers.len(), refused), (count, vec![count - 2]));
    let consumer = bus.consume(Queue::Items, count).await.expect("consume");
    let received = receive(&*consumer, count - 1).await;
    let expected: Vec<String> =
        (0..count).filter(|i| *i != count - 2).map(|number| format!("{number:05}")).collect();
    assert_eq!(bodies(&received), expected);
}

fn not_taken(answers: &[tidings_domain::Result<()>]) {
    assert_eq!(answers.len(), 1);
    let kind = answers[0].as_ref().expect_err("nobody takes it").kind;
    assert!(matches!(kind, ErrorKind::NotFound | ErrorKind::Misconfigured), "answered {kind}");
}

async fn an_undeclared_topic_takes_nothing(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let bus = ports.bus();
    let orders = BusTopic::Messages(topic("orders"));
    not_taken(&bus.publish(&orders, vec![envelope("lost")]).await);
    ports.topology().declare(&[topic("messages"), topic("orders")]).await.expect("declare");
    publish(&*bus, &orders, &["found"]).await;
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    assert_eq!(bodies(&receive(&*consumer, 1).await), ["found"]);
    nothing_comes(&*consumer).await;
}

async fn an_unbound_topic_takes_nothing(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let bus = ports.bus();
    fixture.disturb(Disturbance::Unbind).await;
    not_taken(&bus.publish(&messages(), vec![envelope("lost")]).await);
    not_taken(&bus.publish(&BusTopic::Notifications, vec![envelope("lost")]).await);
    ports.topology().declare(&[topic("messages")]).await.expect("declare");
    publish(&*bus, &messages(), &["found"]).await;
}

async fn a_publish_while_blocked_is_bounded(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    fixture.disturb(Disturbance::Blocked).await;
    let limit = Duration::from_secs(30);
    let answers = tokio::time::timeout(limit, bus.publish(&messages(), vec![envelope("perhaps")]))
        .await
        .unwrap_or_else(|_| panic!("a publish to a blocked broker is answered within {limit:?}"));
    let kind = answers[0].as_ref().expect_err("no confirm came").kind;
    assert!(matches!(kind, ErrorKind::Unknown | ErrorKind::Unavailable), "answered {kind}");
    fixture.mend().await;
    publish(&*bus, &messages(), &["surely"]).await;
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    let mut seen = Vec::new();
    while !seen.contains(&Bytes::from_static(b"surely")) {
        seen.push(receive(&*consumer, 1).await.remove(0).envelope.body);
    }
}

async fn a_bus_that_is_away_is_unavailable(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["before"]).await;
    fixture.disturb(Disturbance::Unavailable).await;
    let answers = bus.publish(&messages(), vec![envelope("during")]).await;
    let kind = answers[0].as_ref().expect_err("the bus is away").kind;
    assert!(matches!(kind, ErrorKind::Unavailable | ErrorKind::Unknown), "answered {kind}");
    fixture.mend().await;
    publish(&*bus, &messages(), &["surely"]).await;
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    let received = receive(&*consumer, 2).await;
    assert!(bodies(&received).contains(&"before"), "what was confirmed is still there");
}

async fn topics_fan_in_and_queues_are_apart(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let bus = ports.bus();
    ports.topology().declare(&[topic("messages"), topic("orders")]).await.expect("declare");
    publish(&*bus, &messages(), &["m"]).await;
    publish(&*bus, &BusTopic::Messages(topic("orders")), &["o"]).await;
    publish(&*bus, &BusTopic::Notifications, &["n"]).await;
    let items = bus.consume(Queue::Items, 10).await.expect("consume");
    let mail = bus.consume(Queue::Mail, 10).await.expect("consume");
    assert_eq!(bodies(&receive(&*items, 2).await), ["m", "o"]);
    assert_eq!(bodies(&receive(&*mail, 1).await), ["n"]);
    nothing_comes(&*items).await;
    nothing_comes(&*mail).await;
}

async fn many_publishers_and_consumers_lose_nothing(fixture: Arc<dyn Fixture>) {
    const PUBLISHERS: usize = 10;
    const EACH: usize = 40;
    let bus = fixture.open().await.bus();
    let mut tasks = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let bus = fixture.open().await.bus();
        tasks.spawn(async move {
            for number in 0..EACH / 4 {
                let bodies: Vec<String> =
                    (0..4).map(|part| format!("{publisher:02}-{:03}", number * 4 + part)).collect();
                let bodies: Vec<&str> = bodies.iter().map(String::as_str).collect();
                publish(&*bus, &messages(), &bodies).await;
            }
            Vec::new()
        });
    }
    for _ in 0..5 {
        let bus = Arc::clone(&bus);
        tasks.spawn(async move {
            let consumer = bus.consume(Queue::Items, 7).await.expect("consume");
            let mut mine = Vec::new();
            loop {
                let received = consumer.receive(5, Duration::from_secs(2)).await.expect("receive");
                if received.is_empty() {
                    return mine;
                }
                mine.extend(bodies(&received).into_iter().map(str::to_owned));
                settle(&*consumer, &received, Settlement::Done).await;
            }
        });
    }
    let mut all: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort_unstable();
    let each = |publisher| (0..EACH).map(move |number| format!("{publisher:02}-{number:03}"));
    let expected: Vec<String> = (0..PUBLISHERS).flat_map(each).collect();
    assert_eq!(all, expected, "each came once");
}

async fn a_restart_keeps_what_was_confirmed(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b", "c"]).await;
    publish(&*bus, &BusTopic::Notifications, &["n"]).await;
    let consumer = bus.consume(Queue::Items, 2).await.expect("consume");
    let received = receive(&*consumer, 2).await;
    settle(&*consumer, &received[..1], Settlement::Done).await;
    let done = String::from_utf8_lossy(&received[0].envelope.body).into_owned();
    drop((received, consumer, bus));
    fixture.disturb(Disturbance::Restart).await;
    let bus = fixture.open().await.bus();
    let consumer = bus.consume(Queue::Items, 10).await.expect("consume");
    let again = receive(&*consumer, 2).await;
    assert!(!bodies(&again).contains(&done.as_str()), "what was done came again");
    nothing_comes(&*consumer).await;
    let mail = bus.consume(Queue::Mail, 10).await.expect("consume");
    assert_eq!(bodies(&receive(&*mail, 1).await), ["n"]);
    publish(&*bus, &messages(), &["d"]).await;
    assert_eq!(bodies(&receive(&*consumer, 1).await), ["d"]);
}
