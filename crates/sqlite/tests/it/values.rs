//! A store in a folder, and values to put into it.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use sqlx::{ConnectOptions, SqliteConnection, sqlite::SqliteConnectOptions};
use tidings_domain::{
    Result,
    address::EmailAddress,
    attributes::Attributes,
    delivery::{Claim, DeliveryKey, DeliveryKind, LeaseToken, NewDelivery},
    filter::Filter,
    id::{MessageId, SubscriptionId},
    message::{Message, TEXT_PLAIN},
    notification::{Cursor, Notification, Plan},
    ports::{
        Bus, BusTopic, Captured, ChangeStream, Clock, Consumer, Dependency, DependencyState, Entropy,
        NewItem, Queue, Received,
    },
    subscription::SubscriptionRequest,
    text::Text,
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
    wire::Envelope,
};
use tidings_sqlite::{DATABASE_FILE, Options, Store};
use uuid::Uuid;

/// Longer than anything here takes.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp::from_millis(i64::try_from(since.unwrap().as_millis()).unwrap())
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).unwrap();
    }
}

pub(crate) async fn try_open(folder: &Path) -> Result<Store> {
    Store::open(Options {
        directory: folder.to_owned(),
        namespace: "tidings".to_owned(),
        clock: Arc::new(WallClock),
        entropy: Arc::new(SystemEntropy),
    })
    .await
}

pub(crate) async fn open(folder: &Path) -> Store {
    try_open(folder).await.unwrap()
}

/// As another program has the file.
pub(crate) async fn foreign(folder: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(folder.join(DATABASE_FILE)).connect().await.unwrap()
}

pub(crate) fn id(number: u128) -> MessageId {
    MessageId(Uuid::from_u128(number))
}

pub(crate) fn item(number: u128, text: &str) -> NewItem {
    let at = Timestamp::from_millis(1_800_000_000_000);
    let message = Message {
        id: id(number),
        topic: TopicName::messages(),
        text: Text::parse(text).unwrap(),
        subject: None,
        content_type: TEXT_PLAIN.to_owned(),
        attributes: Attributes::default(),
        accepted_at: at,
        trace: TraceContext::default(),
    };
    NewItem { message, stored_at: at }
}

pub(crate) fn envelope(body: impl Into<Bytes>) -> Envelope {
    let headers = BTreeMap::from([("id".to_owned(), "ä\"\\".to_owned())]);
    Envelope { headers, body: body.into(), native_id: None, published_to: None }
}

pub(crate) async fn publish(bus: &dyn Bus, bodies: &[&str]) -> Vec<Result<()>> {
    let batch = bodies.iter().map(|body| envelope((*body).to_owned())).collect();
    bus.publish(&BusTopic::Messages(TopicName::messages()), batch).await
}

pub(crate) async fn consumer(store: &Store) -> Box<dyn Consumer> {
    store.bus().consume(Queue::Items, 1000).await.unwrap()
}

/// Exactly `count` messages.
pub(crate) async fn receive(consumer: &dyn Consumer, count: usize) -> Vec<Received> {
    let mut received = Vec::new();
    while received.len() < count {
        let more = consumer.receive(count - received.len(), SOON).await.unwrap();
        assert!(!more.is_empty(), "{} of {count} messages came", received.len());
        received.extend(more);
    }
    received
}

/// Exactly `count` changes.
pub(crate) async fn next(stream: &mut dyn ChangeStream, count: usize) -> Vec<Captured> {
    let mut captured = Vec::new();
    while captured.len() < count {
        let more = stream.next(count - captured.len(), SOON).await.unwrap();
        assert!(!more.is_empty(), "{} of {count} changes came", captured.len());
        captured.extend(more);
    }
    captured
}

/// A confirmed subscription of the topic `messages`.
pub(crate) async fn subscribed(store: &Store, number: u128) -> SubscriptionId {
    let request = SubscriptionRequest {
        new_id: SubscriptionId(Uuid::from_u128(number)),
        topic: TopicName::messages(),
        email: EmailAddress::parse(&format!("a{number}@example.com")).unwrap(),
        filter: Filter::default(),
        confirmed_by: Some("admin".to_owned()),
        by_admin: true,
        at: WallClock.now(),
    };
    let requested = store.subscriptions().request(&request, &TraceContext::default()).await.unwrap();
    requested.subscription.id
}

pub(crate) fn token(number: u128) -> LeaseToken {
    LeaseToken(Uuid::from_u128(number))
}

/// The only page of an item's notification: a delivery to each of `to`.
pub(crate) fn plan(item: MessageId, to: &[SubscriptionId], claim: Option<Claim>) -> Plan {
    let at = WallClock.now();
    let page = to.iter().map(|subscription| NewDelivery {
        key: DeliveryKey { about: item.0, subscription: *subscription, round: 0 },
        kind: DeliveryKind::Item,
        topic: TopicName::messages(),
        due_at: at,
        created_at: at,
        trace: TraceContext::default(),
    });
    Plan {
        notification: Notification {
            item,
            round: 0,
            topic: TopicName::messages(),
            replay: None,
            captured_at: at,
            published_at: at,
        },
        from: Cursor::Start,
        page: page.collect(),
        to: Cursor::Finished,
        claim,
        at,
    }
}

/// Waits until the dependency's state is as wanted.
pub(crate) async fn until(dependency: &dyn Dependency, wanted: impl Fn(&DependencyState) -> bool) {
    let reached = async {
        while !wanted(&dependency.state()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, reached).await.unwrap_or_else(|_| panic!("still {:?}", dependency.state()));
}
