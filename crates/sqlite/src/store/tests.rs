//! A full disk, as a bound on the file's pages: the same on every machine.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tidings_domain::{
    ErrorKind,
    ports::{BusTopic, DependencyState, Queue, Settlement},
    time::Timestamp,
    topic::TopicName,
    wire::Envelope,
};

use super::*;

struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> Timestamp {
        Timestamp::default()
    }
}

impl Entropy for Epoch {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

async fn small(folder: &std::path::Path) -> Store {
    let options = Options {
        directory: folder.to_owned(),
        namespace: "tidings".to_owned(),
        clock: Arc::new(Epoch),
        entropy: Arc::new(Epoch),
    };
    Store::open_with(options, Some("PRAGMA max_page_count = 250")).await.unwrap()
}

async fn publish(store: &Store, number: usize) -> Result<()> {
    put(store, Bytes::from(format!("{number}:{}", "x".repeat(20_000)))).await
}

async fn put(store: &Store, body: Bytes) -> Result<()> {
    let envelope = Envelope { headers: BTreeMap::new(), body, native_id: None, published_to: None };
    store.bus().publish(&BusTopic::Messages(TopicName::messages()), vec![envelope]).await.remove(0)
}

#[tokio::test]
async fn a_full_file_takes_nothing_keeps_all_and_heals() {
    let folder = tempfile::tempdir().unwrap();
    let store = small(folder.path()).await;
    let mut accepted = 0;
    let error = loop {
        match publish(&store, accepted).await {
            Ok(()) => accepted += 1,
            Err(error) => break error,
        }
        assert!(accepted < 1000, "250 pages are never full");
    };
    assert!(accepted > 2);
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("the disk is full: make room"), "{error}");
    let dependency = store.dependency();
    assert!(matches!(dependency.state(), DependencyState::Down(why) if why.contains("full")));
    // Nothing of what was refused is there; settling makes room.
    let consumer = store.bus().consume(Queue::Items, 1000).await.unwrap();
    let mut received = Vec::new();
    loop {
        let more = consumer.receive(1000, Duration::from_millis(200)).await.unwrap();
        if more.is_empty() {
            break;
        }
        received.extend(more);
    }
    assert_eq!(received.len(), accepted);
    let leases = received.iter().map(|received| (received.lease, Settlement::Done)).collect();
    assert!(consumer.settle(leases).await.iter().all(Result::is_ok));
    until_up(&*dependency).await;
    publish(&store, accepted).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn a_full_file_heals_without_traffic_and_not_before_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = small(folder.path()).await;
    let mut number = 0;
    while publish(&store, number).await.is_ok() {
        number += 1;
    }
    let dependency = store.dependency();
    // Two looks of the writer, at least.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(matches!(dependency.state(), DependencyState::Down(_)));
    let mut other = connection::writing(&folder.path().join(DATABASE_FILE)).connect().await.unwrap();
    sqlx::query("DELETE FROM queue_items").execute(&mut other).await.unwrap();
    until_up(&*dependency).await;
    publish(&store, number).await.unwrap();
    store.close().await;
}

async fn until_up(dependency: &dyn Dependency) {
    let healed = async {
        while dependency.state() != DependencyState::Up {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), healed).await.unwrap();
}

#[tokio::test]
async fn small_writes_that_go_well_do_not_say_that_a_full_file_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let store = small(folder.path()).await;
    let mut number = 0;
    while publish(&store, number).await.is_ok() {
        number += 1;
    }
    put(&store, "tiny".into()).await.expect("there is room for a little");
    assert!(matches!(store.dependency().state(), DependencyState::Down(why) if why.contains("full")));
    store.close().await;
}
