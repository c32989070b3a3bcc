//! The broker ends and comes back while messages flow.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidings_domain::{
    ErrorKind,
    ports::{Bus, Queue, Settlement},
};
use tidings_rabbitmq::RabbitMq;
use tidings_servers::rabbitmq::RabbitMq as Server;
use tokio::task::JoinSet;

use crate::stage::{
    CONFIRM, declare, leases, message, nothing_comes, number, options, publish, receive, settle, topic,
    until, until_down, until_up,
};

/// Within how much time flow is to resume: what is asked for is 10 s on a machine that has nothing else to do.
const RESUMES: Duration = Duration::from_secs(30);

/// Publishes one after the other until told to end; answers what was confirmed.
async fn keep_publishing(
    bus: Arc<dyn Bus>,
    ends: Arc<AtomicBool>,
    confirmed: Arc<AtomicUsize>,
) -> BTreeSet<usize> {
    let messages = topic("messages");
    let mut taken = BTreeSet::new();
    for number in 0.. {
        if ends.load(Ordering::Relaxed) {
            break;
        }
        let publishing = bus.publish(&messages, vec![message(number)]);
        let answered = tokio::time::timeout(CONFIRM + Duration::from_secs(10), publishing).await;
        match answered.expect("a publish is bounded").remove(0) {
            Ok(()) => {
                taken.insert(number);
                confirmed.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let kind = error.kind;
                assert!(matches!(kind, ErrorKind::Unknown | ErrorKind::Unavailable), "{}", error.chain());
            }
        }
    }
    taken
}

/// Consumes until told to end, opening consumers anew; answers what came.
async fn keep_consuming(bus: Arc<dyn Bus>, ends: Arc<AtomicBool>) -> BTreeSet<usize> {
    let mut came = BTreeSet::new();
    while !ends.load(Ordering::Relaxed) {
        let consumer = match bus.consume(Queue::Items, 20).await {
            Ok(consumer) => consumer,
            Err(error) => {
                assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        loop {
            match consumer.receive(10, Duration::from_millis(200)).await {
                Ok(received) if received.is_empty() && ends.load(Ordering::Relaxed) => break,
                Ok(received) => {
                    came.extend(received.iter().map(number));
                    let done = leases(&received).into_iter().map(|lease| (lease, Settlement::Done));
                    for answer in consumer.settle(done.collect()).await {
                        let kind = answer.err().map(|error| error.kind);
                        assert!(
                            matches!(kind, None | Some(ErrorKind::LeaseLost | ErrorKind::Unknown)),
                            "{kind:?}"
                        );
                    }
                }
                Err(error) => {
                    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
                    break;
                }
            }
        }
    }
    came
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_confirmed_is_lost_when_the_broker_is_restarted_and_killed() {
    let server = Server::start().await;
    let url = server.vhost().await;
    let rabbitmq = RabbitMq::new(options(&url, &server)).unwrap();
    declare(&rabbitmq, &["messages"]).await.unwrap();
    let (publishing_ends, consuming_ends) =
        (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let confirmed = Arc::new(AtomicUsize::new(0));
    let mut publishers = JoinSet::new();
    publishers.spawn(keep_publishing(rabbitmq.bus(), Arc::clone(&publishing_ends), Arc::clone(&confirmed)));
    let mut consumers = JoinSet::new();
    consumers.spawn(keep_consuming(rabbitmq.bus(), Arc::clone(&consuming_ends)));
    let more = async |count: usize| {
        let before = confirmed.load(Ordering::Relaxed);
        until("publishes are confirmed", || confirmed.load(Ordering::Relaxed) >= before + count).await;
    };
    more(50).await;
    server.stop().await;
    until_down(&rabbitmq, "broker").await;
    server.start_again().await;
    tokio::time::timeout(RESUMES, more(50)).await.expect("flow resumes");
    server.kill().await;
    until_down(&rabbitmq, "broker").await;
    server.start_again().await;
    tokio::time::timeout(RESUMES, more(50)).await.expect("flow resumes");
    publishing_ends.store(true, Ordering::Relaxed);
    let taken = publishers.join_next().await.unwrap().unwrap();
    consuming_ends.store(true, Ordering::Relaxed);
    let mut came = consumers.join_next().await.unwrap().unwrap();
    // What was left.
    until_up(&rabbitmq).await;
    let consumer = rabbitmq.bus().consume(Queue::Items, 100).await.unwrap();
    loop {
        let received = consumer.receive(100, Duration::from_millis(500)).await.unwrap();
        if received.is_empty() {
            break;
        }
        came.extend(received.iter().map(number));
        settle(&*consumer, &leases(&received), Settlement::Done).await;
    }
    let lost: Vec<_> = taken.difference(&came).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), taken.len());
    rabbitmq.close().await;
}

#[tokio::test]
async fn a_broker_that_comes_later_is_found_and_prefetch_holds_after_a_restart() {
    let server = Server::start().await;
    let url = server.vhost().await;
    server.stop().await;
    let rabbitmq = RabbitMq::new(options(&url, &server)).unwrap();
    let error = rabbitmq.bus().publish(&topic("messages"), vec![message(0)]).await.remove(0).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
    server.start_again().await;
    until_up(&rabbitmq).await;
    declare(&rabbitmq, &["messages"]).await.unwrap();
    let bus = rabbitmq.bus();
    publish(&*bus, &topic("messages"), 0..10).await;
    let consumer = bus.consume(Queue::Items, 3).await.unwrap();
    let held = receive(&*consumer, 3).await;
    nothing_comes(&*consumer).await;
    server.stop().await;
    let ended = consumer.receive(1, crate::stage::SOON).await.unwrap_err();
    assert_eq!(ended.kind, ErrorKind::Unavailable);
    for answer in consumer.settle(vec![(held[0].lease, Settlement::Done)]).await {
        assert_eq!(answer.unwrap_err().kind, ErrorKind::LeaseLost);
    }
    server.start_again().await;
    until_up(&rabbitmq).await;
    let consumer = bus.consume(Queue::Items, 3).await.unwrap();
    receive(&*consumer, 3).await;
    nothing_comes(&*consumer).await;
}
