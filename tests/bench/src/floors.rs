//! The least that it could cost: an HTTP handler that does nothing, and the row writes of messages with no services.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use axum::{Json, Router, routing::post};
use serde_json::json;
use tidings_domain::{
    address::EmailAddress,
    attributes::Attributes,
    delivery::{Answer, Claim, DeliveryKey, DeliveryKind, LeaseToken, NewDelivery, Outcome},
    filter::Filter,
    id::{self, MessageId, SubscriptionId},
    message::{Message, TEXT_PLAIN},
    notification::{Cursor, Notification, Plan},
    ports::{BusTopic, Clock, Consumer, Entropy, Lease, NewItem, Queue, Received, Settlement},
    subscription::SubscriptionRequest,
    text::Text,
    topic::TopicName,
    trace_context::TraceContext,
    wire::{self, Envelope, change::Publish},
};
use tidings_sqlite::{Options, Store};
use tokio::net::TcpListener;

use crate::{
    chance::{Counter, SystemClock},
    load,
};

/// The same load against an axum handler that answers a small JSON.
pub(crate) async fn noop_posts(connections: usize, duration: Duration) -> anyhow::Result<load::Outcome> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let handler = |_body: String| async { Json(json!({"id": "none", "topic": "messages"})) };
    let router = Router::new().route("/", post(handler));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });
    let outcome = load::closed(address, "/", connections, duration, None).await;
    server.abort();
    outcome
}

/// Messages a second through the row writes of their whole lives: the store's own statements in groups of 64, one thread,
/// one write after the other, no services and no mail.
pub(crate) fn row_writes(duration: Duration) -> anyhow::Result<f64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let folder = tempfile::tempdir()?;
        let options = Options {
            directory: folder.path().to_owned(),
            namespace: "tidings".to_owned(),
            clock: Arc::new(SystemClock),
            entropy: Arc::new(Counter::default()),
        };
        let store = Store::open(options).await?;
        let lives = lives(&store, duration).await;
        store.close().await;
        lives
    })
}

async fn lives(store: &Store, duration: Duration) -> anyhow::Result<f64> {
    const GROUP: usize = 64;
    let wait = Duration::from_secs(5);
    let (clock, entropy) = (SystemClock, Counter::default());
    let topic = TopicName::messages();
    let (bus, items, deliveries) = (store.bus(), store.items(), store.deliveries());
    store.topology().declare(std::slice::from_ref(&topic)).await?;
    let request = SubscriptionRequest {
        new_id: SubscriptionId::new(&clock, &entropy),
        topic: topic.clone(),
        email: EmailAddress::parse("reader@example.com")?,
        filter: Filter::default(),
        confirmed_by: Some("bench".to_owned()),
        by_admin: true,
        at: clock.now(),
    };
    let subscription =
        store.subscriptions().request(&request, &TraceContext::default()).await?.subscription.id;
    let first = bus.consume(Queue::Items, GROUP).await?;
    let second = bus.consume(Queue::Mail, GROUP).await?;
    let mut changes = store.changes().open().await?;
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < duration {
        let messages: Vec<Message> =
            (0..GROUP).map(|at| message(&topic, &load::body(count + at as u64), &clock, &entropy)).collect();
        let posted = messages.iter().map(wire::message::encode).collect();
        answers(bus.publish(&BusTopic::Messages(topic.clone()), posted).await)?;

        let received = take(&*first, GROUP, wait).await?;
        let now = clock.now();
        let rows: Vec<NewItem> =
            messages.into_iter().map(|message| NewItem { message, stored_at: now }).collect();
        items.insert(&rows).await?;
        answers(first.settle(done(&received)).await)?;

        let mut captured = Vec::new();
        while captured.len() < GROUP {
            captured.extend(changes.next(GROUP - captured.len(), wait).await?);
        }
        let up_to = captured.last().map(|last| last.position).context("a change")?;
        let publish = Publish { at: clock.now(), round: 0, replay: None, trace: TraceContext::default() };
        let records: Vec<Envelope> = captured
            .iter()
            .filter_map(|captured| captured.content.as_ref().ok())
            .map(|change| wire::change::encode(change, &publish, usize::MAX))
            .collect();
        answers(bus.publish(&BusTopic::Notifications, records).await)?;
        changes.confirm(up_to).await?;

        let received = take(&*second, GROUP, wait).await?;
        let token = LeaseToken(id::new_v7(&clock, &entropy));
        let until = clock.now().plus(Duration::from_secs(60));
        let claim = Claim { token, owner: "bench".to_owned(), at: clock.now(), until };
        let mut plans = Vec::with_capacity(GROUP);
        for received in &received {
            let notification = wire::change::decode(&received.envelope, clock.now())?.notification;
            plans.push(plan(notification, subscription, &claim));
        }
        let keys: Vec<(DeliveryKey, LeaseToken)> =
            plans.iter().flat_map(|plan| &plan.page).map(|delivery| (delivery.key, token)).collect();
        deliveries.plan(plans).await?;
        answers(second.settle(done(&received)).await)?;
        deliveries.sending(&keys, until).await?;
        let answer = Answer { at: clock.now(), phase: "message".into(), code: 250, text: "taken".into() };
        let sent = keys
            .iter()
            .map(|(key, token)| (*key, *token, Outcome::Sent { answer: answer.clone() }))
            .collect();
        answers(deliveries.settle(sent, clock.now()).await?)?;
        count += GROUP as u64;
    }
    #[expect(clippy::cast_precision_loss, reason = "a count of messages")]
    let lives = count as f64 / begun.elapsed().as_secs_f64();
    Ok(lives)
}

/// Takes `count` messages.
pub(crate) async fn take(
    consumer: &dyn Consumer,
    count: usize,
    wait: Duration,
) -> anyhow::Result<Vec<Received>> {
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count {
        taken.extend(consumer.receive(count - taken.len(), wait).await?);
    }
    Ok(taken)
}

/// All of them dealt with.
pub(crate) fn done(received: &[Received]) -> Vec<(Lease, Settlement)> {
    received.iter().map(|received| (received.lease, Settlement::Done)).collect()
}

/// The first failure, or none.
pub(crate) fn answers(answers: Vec<tidings_domain::Result<()>>) -> anyhow::Result<()> {
    Ok(answers.into_iter().collect::<tidings_domain::Result<()>>()?)
}

/// A message of the bench's own.
pub(crate) fn message(topic: &TopicName, text: &str, clock: &dyn Clock, entropy: &dyn Entropy) -> Message {
    Message {
        id: MessageId::new(clock, entropy),
        topic: topic.clone(),
        text: Text::parse(text).expect("the bench's own text can be carried"),
        subject: None,
        content_type: TEXT_PLAIN.to_owned(),
        attributes: Attributes::default(),
        accepted_at: clock.now(),
        trace: TraceContext::default(),
    }
}

/// The plan of one delivery, claimed at once.
pub(crate) fn plan(notification: Notification, subscription: SubscriptionId, claim: &Claim) -> Plan {
    let key = DeliveryKey { about: notification.item.0, subscription, round: 0 };
    let delivery = NewDelivery {
        key,
        kind: DeliveryKind::Item,
        topic: notification.topic.clone(),
        due_at: claim.at,
        created_at: claim.at,
        trace: TraceContext::default(),
    };
    Plan {
        notification,
        from: Cursor::Start,
        page: vec![delivery],
        to: Cursor::Finished,
        claim: Some(claim.clone()),
        at: claim.at,
    }
}
