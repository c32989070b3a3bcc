//! Ports in memory, a scripted mail server, and mailers that start, stop and crash.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidings_domain::{
    address::EmailAddress,
    attributes::Attributes,
    dead_letter::{DeadLetter, DeadLetterSelection},
    delivery::{Delivery, DeliveryState},
    filter::Filter,
    id::{MessageId, SubscriptionId},
    item::{Change, Item},
    message::{Message, TEXT_PLAIN},
    page::PageRequest,
    ports::{Clock, Mail, NewItem, Queue},
    subscription::{Subscription, SubscriptionRequest},
    text::{Subject, Text},
    topic::TopicName,
    trace_context::TraceContext,
    wire::change::{Publish, encode},
};
use tidings_mailer::{Context, Settings, run};
use tidings_memory::{Memory, Options, PausedClock, SeededEntropy};
use tidings_runtime::{health::Health, shutdown::Shutdown, telemetry::Telemetry};
use tokio::{task::JoinSet, time::Instant};

use crate::post_office::PostOffice;

pub(crate) struct World {
    pub(crate) memory: Memory,
    pub(crate) office: PostOffice,
    pub(crate) health: Health,
    pub(crate) settings: Settings,
    pub(crate) clock: PausedClock,
    entropy: Arc<SeededEntropy>,
}

/// A mailer at work. Dropped, it crashes.
pub(crate) struct Mailer {
    task: JoinSet<tidings_domain::Result<()>>,
    pub(crate) shutdown: Shutdown,
}

impl Mailer {
    /// It crashes at whatever await it stands.
    pub(crate) async fn crash(mut self) {
        self.task.shutdown().await;
    }

    /// It ends by itself.
    pub(crate) async fn ended(mut self) -> tidings_domain::Result<()> {
        self.task.join_next().await.unwrap().unwrap()
    }

    /// It is asked to stop; how long that took.
    pub(crate) async fn stop(mut self) -> Duration {
        let began = Instant::now();
        self.shutdown.request();
        self.task.join_next().await.unwrap().unwrap().unwrap();
        began.elapsed()
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let memory = Memory::new(Options::new(7));
        Self {
            clock: memory.clock(),
            memory,
            office: PostOffice::new(),
            health: Health::new(),
            settings: Settings::default(),
            entropy: Arc::new(SeededEntropy::new(11)),
        }
    }

    pub(crate) fn start(&self) -> Mailer {
        self.start_with(Arc::new(self.office.clone()), Telemetry::none())
    }

    pub(crate) fn start_with(&self, mail: Arc<dyn Mail>, telemetry: Telemetry) -> Mailer {
        let context = Context {
            bus: self.memory.bus(),
            items: self.memory.items(),
            subscriptions: self.memory.subscriptions(),
            deliveries: self.memory.deliveries(),
            catalog: self.memory.catalog(),
            dead_letters: self.memory.dead_letters(),
            mail,
            clock: Arc::new(self.clock),
            entropy: Arc::clone(&self.entropy) as _,
            health: self.health.clone(),
            telemetry,
            secret: tidings_domain::token::Secret::new([7; 32]),
            settings: self.settings.clone(),
        };
        let shutdown = Shutdown::default();
        let mut task = JoinSet::new();
        task.spawn(run(context, shutdown.clone()));
        Mailer { task, shutdown }
    }

    pub(crate) fn new_id(&self) -> uuid::Uuid {
        tidings_domain::id::new_v7(&self.clock, &*self.entropy)
    }

    pub(crate) async fn subscribe(&self, email: &str) -> Subscription {
        self.subscribe_with(email, json!({}), true).await
    }

    pub(crate) async fn subscribe_with(&self, email: &str, filter: Value, confirmed: bool) -> Subscription {
        let request = SubscriptionRequest {
            new_id: SubscriptionId(self.new_id()),
            topic: TopicName::messages(),
            email: EmailAddress::parse(email).unwrap(),
            filter: Filter::from_json(filter).unwrap(),
            confirmed_by: confirmed.then(|| "admin".to_owned()),
            by_admin: confirmed,
            at: self.clock.now(),
        };
        self.memory.subscriptions().request(&request, &TraceContext::default()).await.unwrap().subscription
    }

    pub(crate) fn change(&self, text: &str, attributes: Value) -> Change {
        let message = Message {
            id: MessageId(self.new_id()),
            topic: TopicName::messages(),
            text: Text::parse(text).unwrap(),
            subject: Some(Subject::parse("a subject").unwrap()),
            content_type: TEXT_PLAIN.to_owned(),
            attributes: Attributes::from_json(attributes).unwrap(),
            accepted_at: self.clock.now(),
            trace: TraceContext::default(),
        };
        Change {
            event_id: "1".to_owned(),
            sequence_number: "1".to_owned(),
            item: Item { message, stored_at: self.clock.now() },
            size_bytes: 1,
            captured_at: self.clock.now(),
        }
    }

    pub(crate) async fn store(&self, change: &Change) {
        let item = NewItem { message: change.item.message.clone(), stored_at: self.clock.now() };
        self.memory.items().insert(&[item]).await.unwrap();
    }

    /// Publishes a notification, whose record has room for `max_bytes`.
    pub(crate) fn notify(&self, change: &Change, max_bytes: usize) {
        let publish =
            Publish { at: self.clock.now(), round: 0, replay: None, trace: TraceContext::default() };
        self.memory.publish_foreign(Queue::Mail, encode(change, &publish, max_bytes));
    }

    /// An item and its notification.
    pub(crate) async fn post(&self, text: &str, attributes: Value) -> MessageId {
        let change = self.change(text, attributes);
        self.store(&change).await;
        self.notify(&change, usize::MAX);
        change.item.message.id
    }

    pub(crate) async fn deliveries(&self, about: uuid::Uuid) -> Vec<Delivery> {
        let page = PageRequest { limit: 250, cursor: None };
        self.memory.deliveries().list(about, &page).await.unwrap().data
    }

    pub(crate) async fn letters(&self) -> Vec<DeadLetter> {
        let (all, page) = (DeadLetterSelection::default(), PageRequest { limit: 250, cursor: None });
        self.memory.dead_letters().list(&all, &page).await.unwrap().data
    }

    /// Waits, in virtual time, until `count` mails were taken.
    pub(crate) async fn mails(&self, count: usize) {
        self.until(&format!("{count} mails"), || async { self.office.recipients().len() >= count }).await;
    }

    /// Waits until every delivery about `about` is in `state`, of which there is at least one; answers them.
    pub(crate) async fn all_in(&self, about: uuid::Uuid, state: DeliveryState) -> Vec<Delivery> {
        let is_so = || async {
            let rows = self.deliveries(about).await;
            !rows.is_empty() && rows.iter().all(|row| row.state == state)
        };
        self.until(&format!("all {state:?}"), is_so).await;
        self.deliveries(about).await
    }

    /// Waits, in virtual time of a week at most, until `is_so`.
    pub(crate) async fn until<F: Future<Output = bool>>(&self, what: &str, is_so: impl Fn() -> F) {
        let began = Instant::now();
        let mut step = Duration::from_millis(1);
        while !is_so().await {
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(7 * 24 * 3600), "waited {waited:?} in vain until {what}");
            tokio::time::sleep(step).await;
            step = (step * 11 / 10).min(Duration::from_secs(30));
        }
    }

    /// What readiness says of a part.
    pub(crate) fn part(&self, name: &str) -> String {
        format!("{:?}", self.health.report().parts.get(name))
    }
}
