//! `Bus` and `Consumer`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::FutureExt as _;
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
    competing_consumers_share,
    prefetch_bounds_what_is_unsettled,
    a_release_comes_back_uncounted,
    a_dropped_consumer_gives_back_what_it_held,
    what_is_done_never_comes_again,
    a_settlement_of_a_lease_given_up_is_lease_lost,
    a_settlement_of_anothers_lease_is_lease_lost,
    a_lease_that_ran_out_is_lost_and_its_message_comes_again [Need::BusLease],
    an_extended_lease_holds [Need::BusLease],
    receive_waits_and_ends_empty,
    receive_loses_nothing_when_it_is_dropped,
    after_stop_nothing_new_is_assigned,
    stop_ends_a_waiting_receive,
    many_publishers_and_consumers_lose_nothing,
    a_restart_keeps_what_was_confirmed [Need::Disturb(Disturbance::Restart)],
});

/// How long a message may take to come.
const SOON: Duration = Duration::from_secs(10);

/// How long is waited to see that none comes.
const QUIET: Duration = Duration::from_millis(300);

fn messages() -> BusTopic {
    BusTopic::Messages(topic("messages"))
}

async fn publish(bus: &dyn Bus, to: &BusTopic, bodies: &[&str]) {
    let batch = bodies.iter().map(|body| envelope(body.to_string())).collect();
    let answers = bus.publish(to, batch).await;
    assert_eq!(answers.len(), bodies.len(), "one answer for each entry");
    for (body, answer) in bodies.iter().zip(answers) {
        answer.unwrap_or_else(|error| panic!("publish {body:?}: {}", error.chain()));
    }
}

/// Receives until `count` have come.
async fn receive(consumer: &dyn Consumer, count: usize) -> Vec<Received> {
    let mut all = Vec::new();
    while all.len() < count {
        let received = consumer.receive(count - all.len(), SOON).await.expect("receive");
        assert!(!received.is_empty(), "{} of {count} messages came within {SOON:?}", all.len());
        all.extend(received);
    }
    assert_eq!(all.len(), count, "receive handed out more than it was asked for");
    all
}

async fn nothing_comes(consumer: &dyn Consumer) {
    let received = consumer.receive(10, QUIET).await.expect("receive");
    assert!(received.is_empty(), "nothing was to come, but {received:?}");
}

async fn settle(consumer: &dyn Consumer, received: &[Received], settlement: Settlement) {
    let answers = consumer.settle(received.iter().map(|message| (message.lease, settlement)).collect()).await;
    assert_eq!(answers.len(), received.len(), "one answer for each settlement");
    for answer in answers {
        answer.unwrap_or_else(|error| panic!("settle: {}", error.chain()));
    }
}

/// The bodies, sorted: no bus promises an order.
fn bodies(received: &[Received]) -> Vec<&str> {
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

async fn competing_consumers_share(fixture: Arc<dyn Fixture>) {
    let first = fixture.open().await.bus();
    let second = fixture.open().await.bus();
    let one = first.consume(Queue::Items, 2).await.expect("consume");
    let other = second.consume(Queue::Items, 2).await.expect("consume");
    publish(&*first, &messages(), &["a", "b", "c", "d"]).await;
    // Each is assigned two at most, so that both have to take part.
    let mut all = receive(&*one, 2).await;
    all.extend(receive(&*other, 2).await);
    assert_eq!(bodies(&all), ["a", "b", "c", "d"]);
}

async fn prefetch_bounds_what_is_unsettled(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b", "c", "d"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let held = receive(&*consumer, 3).await;
    nothing_comes(&*consumer).await;
    settle(&*consumer, &held[..1], Settlement::Done).await;
    receive(&*consumer, 1).await;
    nothing_comes(&*consumer).await;
}

async fn a_release_comes_back_uncounted(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let mut returns = Vec::new();
    for _ in 0..5 {
        let received = receive(&*consumer, 1).await;
        returns.push(received[0].returns);
        settle(&*consumer, &received, Settlement::Release).await;
    }
    if bus.capabilities().release_is_uncounted {
        assert_eq!(returns, [0; 5]);
    }
    assert_eq!(bodies(&receive(&*consumer, 1).await), ["a"], "it is still there");
}

async fn a_dropped_consumer_gives_back_what_it_held(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b", "c"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let held = receive(&*consumer, 2).await;
    drop(consumer);
    drop(held);
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    assert_eq!(bodies(&receive(&*consumer, 3).await), ["a", "b", "c"]);
}

async fn what_is_done_never_comes_again(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let received = receive(&*consumer, 2).await;
    let (done, held): (Vec<_>, Vec<_>) =
        received.into_iter().partition(|message| message.envelope.body == "a");
    settle(&*consumer, &done, Settlement::Done).await;
    drop(consumer);
    drop(held);
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    assert_eq!(bodies(&receive(&*consumer, 1).await), ["b"]);
    nothing_comes(&*consumer).await;
}

fn lease_lost(answers: &[tidings_domain::Result<()>]) {
    for answer in answers {
        assert_eq!(answer.as_ref().expect_err("the lease is lost").kind, ErrorKind::LeaseLost);
    }
}

async fn a_settlement_of_a_lease_given_up_is_lease_lost(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let first = receive(&*consumer, 1).await;
    settle(&*consumer, &first, Settlement::Release).await;
    let second = receive(&*consumer, 1).await;
    let stale = consumer.settle(vec![(first[0].lease, Settlement::Done)]).await;
    assert_eq!(stale.len(), 1);
    lease_lost(&stale);
    // The stale settlement changed nothing: whoever holds it now settles it.
    settle(&*consumer, &second, Settlement::Done).await;
    lease_lost(&consumer.settle(vec![(second[0].lease, Settlement::Release)]).await);
    nothing_comes(&*consumer).await;
}

async fn a_settlement_of_anothers_lease_is_lease_lost(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a"]).await;
    let one = bus.consume(Queue::Items, 1).await.expect("consume");
    let held = receive(&*one, 1).await;
    drop(one);
    let other = bus.consume(Queue::Items, 1).await.expect("consume");
    let again = receive(&*other, 1).await;
    lease_lost(&other.settle(vec![(held[0].lease, Settlement::Done)]).await);
    settle(&*other, &again, Settlement::Done).await;
}

async fn a_lease_that_ran_out_is_lost_and_its_message_comes_again(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let lease = bus.capabilities().lease.expect("an adapter without leases says so");
    publish(&*bus, &messages(), &["a"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let first = receive(&*consumer, 1).await;
    fixture.elapse(lease + lease / 4).await;
    let other = bus.consume(Queue::Items, 3).await.expect("consume");
    let second = receive(&*other, 1).await;
    assert_eq!(bodies(&second), ["a"]);
    lease_lost(&consumer.settle(vec![(first[0].lease, Settlement::Done)]).await);
    lease_lost(&consumer.extend(&[first[0].lease]).await);
    settle(&*other, &second, Settlement::Done).await;
}

async fn an_extended_lease_holds(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let lease = bus.capabilities().lease.expect("an adapter without leases says so");
    publish(&*bus, &messages(), &["a"]).await;
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    let other = bus.consume(Queue::Items, 3).await.expect("consume");
    let held = receive(&*consumer, 1).await;
    for _ in 0..4 {
        fixture.elapse(lease / 2).await;
        let extended = consumer.extend(&[held[0].lease]).await;
        assert!(extended.iter().all(Result::is_ok), "{extended:?}");
    }
    nothing_comes(&*other).await;
    settle(&*consumer, &held, Settlement::Done).await;
    nothing_comes(&*other).await;
}

async fn receive_waits_and_ends_empty(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let consumer = bus.consume(Queue::Items, 3).await.expect("consume");
    nothing_comes(&*consumer).await;
    // One that waits is woken by what comes.
    let waiting = async { receive(&*consumer, 1).await };
    let publishing = async { publish(&*bus, &messages(), &["a"]).await };
    let (received, ()) = futures::join!(waiting, publishing);
    assert_eq!(bodies(&received), ["a"]);
}

async fn receive_loses_nothing_when_it_is_dropped(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let consumer = bus.consume(Queue::Items, 50).await.expect("consume");
    let mut all: Vec<String> = Vec::new();
    for round in 0..40_u64 {
        publish(&*bus, &messages(), &[&format!("{round:03}")]).await;
        // Dropped after a different number of steps each time, so that it is dropped at every await that it has.
        let patience = Duration::from_micros(round * 150);
        if let Ok(received) = tokio::time::timeout(patience, consumer.receive(5, SOON)).await {
            all.extend(bodies(&received.expect("receive")).into_iter().map(str::to_owned));
        }
        // And once polled a single time.
        if let Some(received) = consumer.receive(5, SOON).now_or_never() {
            all.extend(bodies(&received.expect("receive")).into_iter().map(str::to_owned));
        }
    }
    let rest = receive(&*consumer, 40 - all.len()).await;
    all.extend(bodies(&rest).into_iter().map(str::to_owned));
    all.sort_unstable();
    let expected: Vec<String> = (0..40).map(|round| format!("{round:03}")).collect();
    assert_eq!(all, expected);
}

async fn after_stop_nothing_new_is_assigned(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    publish(&*bus, &messages(), &["a", "b", "c", "d"]).await;
    let consumer = bus.consume(Queue::Items, 2).await.expect("consume");
    let mut all = receive(&*consumer, 1).await;
    consumer.stop().await;
    consumer.stop().await;
    loop {
        let received = consumer.receive(10, SOON).await.expect("receive");
        if received.is_empty() {
            break;
        }
        all.extend(received);
    }
    assert!(all.len() <= 2, "{} messages came of a consumer of 2 that was stopped", all.len());
    // What it holds can still be settled, and the rest is another's.
    settle(&*consumer, &all, Settlement::Done).await;
    assert!(consumer.receive(10, SOON).await.expect("receive").is_empty(), "empty means empty for good");
    let other = bus.consume(Queue::Items, 10).await.expect("consume");
    receive(&*other, 4 - all.len()).await;
    nothing_comes(&*other).await;
}

async fn stop_ends_a_waiting_receive(fixture: Arc<dyn Fixture>) {
    let bus = fixture.open().await.bus();
    let consumer = bus.consume(Queue::Items, 2).await.expect("consume");
    let waiting = async { consumer.receive(10, Duration::from_secs(3600)).await };
    let stopping = async { consumer.stop().await };
    let ended = tokio::time::timeout(SOON, async { futures::join!(waiting, stopping) }).await;
    let (received, ()) = ended.expect("a stop ends a receive that waits");
    assert!(received.expect("receive").is_empty());
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
