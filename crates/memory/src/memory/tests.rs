use std::time::Duration;

use bytes::Bytes;
use tidings_domain::{
    ErrorKind,
    ports::{BusTopic, Settlement},
    wire::Envelope,
};
use tokio::task::JoinSet;

use super::*;

fn envelope(text: &str) -> Envelope {
    Envelope { body: Bytes::copy_from_slice(text.as_bytes()), ..Envelope::default() }
}

fn messages() -> BusTopic {
    BusTopic::Messages(TopicName::messages())
}

/// Publishers and consumers on one memory: the hash of what happened, and how long it took.
async fn run(seed: u64) -> (u64, Duration) {
    let options = Options::new(seed);
    let recorder = options.recorder.clone();
    let memory = Memory::new(options);
    let began = tokio::time::Instant::now();
    let mut tasks = JoinSet::new();
    for publisher in 0..4 {
        let bus = memory.bus();
        tasks.spawn(async move {
            for number in 0..20 {
                bus.publish(&messages(), vec![envelope(&format!("{publisher} {number}"))]).await;
            }
        });
    }
    for _ in 0..3 {
        let bus = memory.bus();
        tasks.spawn(async move {
            let consumer = bus.consume(Queue::Items, 5).await.unwrap();
            loop {
                let received = consumer.receive(3, Duration::from_secs(1)).await.unwrap();
                if received.is_empty() {
                    return;
                }
                consumer.settle(received.iter().map(|r| (r.lease, Settlement::Done)).collect()).await;
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(memory.depth(Queue::Items), 0);
    (recorder.hash(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn equal_seeds_are_equal_runs_and_others_are_others() {
    let first = run(7).await;
    assert_eq!(run(7).await, first);
    assert_ne!(run(8).await.0, first.0);
}

#[tokio::test(start_paused = true)]
async fn an_operation_dropped_before_its_effect_has_none_and_after_it_has_it() {
    // Dropped after each number of polls: at some it is before the effect, at others after it, never half.
    let mut seen = [0, 0];
    for seed in 0..40 {
        for polls in 1..4 {
            let memory = Memory::new(Options::new(seed));
            let bus = memory.bus();
            {
                let topic = messages();
                let batch = vec![envelope("one"), envelope("two")];
                let mut publish = bus.publish(&topic, batch);
                for _ in 0..polls {
                    let wait = Duration::from_millis(1);
                    if tokio::time::timeout(wait, &mut publish).await.is_ok() {
                        break;
                    }
                }
            }
            let depth = memory.depth(Queue::Items);
            assert!(depth == 0 || depth == 2, "half of a batch: {depth}");
            seen[depth / 2] += 1;
        }
    }
    assert!(seen[0] > 10 && seen[1] > 10, "both happen: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn what_came_back_too_often_goes_to_the_safety_net() {
    let memory = Memory::new(Options { max_returns: 3, ..Options::new(1) });
    let bus = memory.bus();
    bus.publish(&messages(), vec![envelope("poison")]).await;
    for returns in 0..3 {
        let consumer = bus.consume(Queue::Items, 1).await.unwrap();
        let received = consumer.receive(1, Duration::from_secs(5)).await.unwrap();
        assert_eq!(received[0].returns, returns);
    }
    assert_eq!(memory.depth(Queue::Items), 0);
    let consumer = bus.consume(Queue::ItemsDead, 1).await.unwrap();
    let received = consumer.receive(1, Duration::from_secs(5)).await.unwrap();
    assert_eq!((&*received[0].envelope.body, received[0].returns), (&b"poison"[..], 0));
}

#[tokio::test(start_paused = true)]
async fn what_was_assigned_and_not_handed_out_comes_back_uncounted() {
    let memory = Memory::new(Options::new(1));
    let bus = memory.bus();
    bus.publish(&messages(), vec![envelope("a"), envelope("b")]).await;
    let consumer = bus.consume(Queue::Items, 2).await.unwrap();
    assert_eq!(consumer.receive(1, Duration::from_secs(5)).await.unwrap().len(), 1);
    drop(consumer);
    let consumer = bus.consume(Queue::Items, 2).await.unwrap();
    let received = consumer.receive(2, Duration::from_secs(5)).await.unwrap();
    let returns: Vec<u32> = received.iter().map(|received| received.returns).collect();
    assert_eq!(returns, [1, 0]);
}

#[tokio::test(start_paused = true)]
async fn each_part_is_away_by_itself() {
    let memory = Memory::new(Options::new(1));
    memory.set_away(Part::Store, true);
    assert!(memory.bus().publish(&messages(), vec![envelope("a")]).await[0].is_ok());
    assert_eq!(memory.items().ping().await.unwrap_err().kind, ErrorKind::Unavailable);
    assert!(memory.mail().ping().await.is_ok());
    assert!(matches!(memory.dependency().state(), DependencyState::Down(_)));
    memory.set_away(Part::Store, false);
    memory.set_away(Part::Bus, true);
    assert_eq!(
        memory.bus().publish(&messages(), vec![envelope("a")]).await[0].as_ref().unwrap_err().kind,
        ErrorKind::Unavailable
    );
    assert!(memory.items().ping().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_restart_ends_streams_and_consumers() {
    let memory = Memory::new(Options::new(1));
    let consumer = memory.bus().consume(Queue::Items, 2).await.unwrap();
    let mut stream = memory.changes().open().await.unwrap();
    memory.restart();
    let received = consumer.receive(1, Duration::from_secs(60)).await;
    assert_eq!(received.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(stream.next(1, Duration::from_secs(60)).await.unwrap_err().kind, ErrorKind::Unavailable);
    let second = tokio::time::timeout(Duration::from_secs(60), memory.changes().open()).await;
    assert!(second.unwrap().is_ok(), "the stream is free");
}
