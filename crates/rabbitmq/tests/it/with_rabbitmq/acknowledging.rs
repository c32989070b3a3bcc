//! Settlements as frames.

use tidings_domain::{
    ErrorKind,
    ports::{Queue, Settlement},
};

use crate::stage::{Stage, leases, nothing_comes, number, publish, receive, settle, topic};

const FRAMES: &str = "tidings.rabbitmq.acknowledgements";

#[tokio::test]
async fn neighbours_are_acknowledged_together() {
    let stage = Stage::with(&["messages"]).await;
    publish(&*stage.bus, &topic("messages"), 0..100).await;
    let consumer = stage.bus.consume(Queue::Items, 100).await.unwrap();
    let received = receive(&*consumer, 100).await;
    let leases = leases(&received);
    settle(&*consumer, &leases[..50], Settlement::Done).await;
    assert_eq!(stage.counts.of(FRAMES), 1, "all below is settled: one frame");
    // One is left out: what is above it goes one by one, until it is settled too.
    settle(&*consumer, &leases[51..54], Settlement::Done).await;
    assert_eq!(stage.counts.of(FRAMES), 4);
    settle(&*consumer, &leases[50..51], Settlement::Done).await;
    assert_eq!(stage.counts.of(FRAMES), 5);
    settle(&*consumer, &leases[54..], Settlement::Done).await;
    assert_eq!(stage.counts.of(FRAMES), 6);
    drop(consumer);
    let consumer = stage.bus.consume(Queue::Items, 100).await.unwrap();
    nothing_comes(&*consumer).await;
}

#[tokio::test]
async fn one_frame_for_many_takes_along_none_that_is_held_or_released() {
    let stage = Stage::with(&["messages"]).await;
    publish(&*stage.bus, &topic("messages"), 0..30).await;
    let consumer = stage.bus.consume(Queue::Items, 30).await.unwrap();
    let received = receive(&*consumer, 30).await;
    consumer.stop().await;
    // Of each three one is done, one given back, one held.
    let mut settlements = Vec::new();
    for each in received.chunks(3) {
        settlements.push((each[0].lease, Settlement::Done));
        settlements.push((each[1].lease, Settlement::Release));
    }
    for answer in consumer.settle(settlements).await {
        answer.unwrap();
    }
    drop(consumer);
    let consumer = stage.bus.consume(Queue::Items, 30).await.unwrap();
    let mut again: Vec<_> = receive(&*consumer, 20).await.iter().map(number).collect();
    again.sort_unstable();
    let expected: Vec<_> = received.chunks(3).flat_map(|each| [number(&each[1]), number(&each[2])]).collect();
    assert_eq!(again, expected);
    nothing_comes(&*consumer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settlements_at_the_same_time_never_overtake_each_other() {
    let stage = Stage::with(&["messages"]).await;
    for round in 0..20 {
        publish(&*stage.bus, &topic("messages"), round * 100..(round + 1) * 100).await;
    }
    let consumer = stage.bus.consume(Queue::Items, 2000).await.unwrap();
    let received = receive(&*consumer, 2000).await;
    // A frame that came too late would name a message that is settled, and the broker would close the channel.
    let all = leases(&received);
    let settling = all.chunks(7).map(|leases| settle(&*consumer, leases, Settlement::Done));
    futures::future::join_all(settling).await;
    let lost = consumer.settle(vec![(all[0], Settlement::Done)]).await.remove(0).unwrap_err();
    assert_eq!(lost.kind, ErrorKind::LeaseLost);
    publish(&*stage.bus, &topic("messages"), 0..1).await;
    receive(&*consumer, 1).await;
}
