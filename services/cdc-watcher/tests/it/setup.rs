use std::{sync::Arc, time::Duration};

use tidings_cdc_watcher::{Context, Settings};
use tidings_domain::{
    Result,
    attributes::Attributes,
    dead_letter::{DeadLetter, DeadLetterSelection},
    id::MessageId,
    message::{Message, TEXT_PLAIN},
    page::PageRequest,
    ports::{Clock as _, NewItem, Queue, Settlement},
    text::Text,
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
    wire::Envelope,
};
use tidings_memory::{Memory, Options, SeededEntropy};
use tidings_runtime::{
    health::{Health, PartState},
    shutdown::Shutdown,
    telemetry::Telemetry,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::faults::{FaultyBus, FaultyChanges};

pub(crate) const CHANGES: &str = "cdc-watcher: changes";

/// A running watcher and the memory that it runs on.
pub(crate) struct Setup {
    pub(crate) memory: Memory,
    pub(crate) bus: Arc<FaultyBus>,
    pub(crate) changes: Arc<FaultyChanges>,
    pub(crate) health: Health,
    pub(crate) telemetry: Telemetry,
    pub(crate) settings: Settings,
    pub(crate) shutdown: Shutdown,
    pub(crate) tasks: JoinSet<Result<()>>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with(Options { delay_ms: 0, ..Options::new(1) })
    }

    pub(crate) fn with(options: Options) -> Self {
        let memory = Memory::new(options);
        Self {
            bus: Arc::new(FaultyBus::new(memory.bus())),
            changes: Arc::new(FaultyChanges::new(memory.changes())),
            memory,
            health: Health::new(),
            telemetry: Telemetry::none(),
            settings: Settings::default(),
            shutdown: Shutdown::default(),
            tasks: JoinSet::new(),
        }
    }

    pub(crate) fn context(&self) -> Context {
        Context {
            changes: Arc::<FaultyChanges>::clone(&self.changes),
            bus: Arc::<FaultyBus>::clone(&self.bus),
            dead_letters: self.memory.dead_letters(),
            clock: Arc::new(self.memory.clock()),
            entropy: Arc::new(SeededEntropy::new(2)),
            health: self.health.clone(),
            telemetry: self.telemetry.clone(),
            settings: self.settings.clone(),
        }
    }

    pub(crate) fn start(&mut self) {
        self.tasks.spawn(tidings_cdc_watcher::run(self.context(), self.shutdown.clone()));
    }

    pub(crate) async fn stop(&mut self) {
        self.shutdown.request();
        let ended = tokio::time::timeout(Duration::from_secs(60), self.tasks.join_next()).await;
        ended.expect("it does not stop").expect("it runs").expect("no panic").expect("Ok");
    }

    /// Drops the watcher at whatever await it stands.
    pub(crate) async fn crash(&mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
    }

    pub(crate) fn insert(&self, message: Message) {
        let stored_at = self.memory.clock().now();
        self.memory.insert_foreign(NewItem { message, stored_at });
    }

    pub(crate) fn insert_all(&self, numbers: impl IntoIterator<Item = u128>) {
        numbers.into_iter().for_each(|number| self.insert(message(number, &format!("text {number}"))));
    }

    pub(crate) async fn letters(&self) -> Vec<DeadLetter> {
        let all = DeadLetterSelection::default();
        self.memory.dead_letters().list(&all, &PageRequest::default()).await.unwrap().data
    }

    /// Takes everything out of the queue `mail`.
    pub(crate) async fn take_published(&self) -> Vec<Envelope> {
        let consumer = self.memory.bus().consume(Queue::Mail, 10_000).await.unwrap();
        let mut published = Vec::new();
        loop {
            let received = consumer.receive(1000, Duration::ZERO).await.unwrap();
            if received.is_empty() {
                return published;
            }
            let done = received.iter().map(|received| (received.lease, Settlement::Done)).collect();
            consumer.settle(done).await.into_iter().for_each(|answer| answer.unwrap());
            published.extend(received.into_iter().map(|received| received.envelope));
        }
    }

    pub(crate) async fn until_confirmed(&self) {
        self.until("everything is confirmed", || self.memory.unconfirmed() == 0).await;
    }

    /// Looks every millisecond of virtual time, for two hours of it at most.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let looking = async {
            while !condition() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let end = tokio::time::timeout(Duration::from_secs(7200), looking).await;
        assert!(end.is_ok(), "never: {what}; health: {:?}", self.health.report());
    }

    pub(crate) fn part(&self) -> PartState {
        let absent = || PartState::Stopped("there is no such part".to_owned());
        self.health.report().parts.get(CHANGES).cloned().unwrap_or_else(absent)
    }

    /// What the watcher waits for.
    pub(crate) fn waits_for(&self) -> String {
        match self.part() {
            PartState::Waiting(reason) => reason,
            other => panic!("it does not wait: {other:?}"),
        }
    }
}

/// A message with this number as its id.
pub(crate) fn message(number: u128, text: &str) -> Message {
    Message {
        id: MessageId(Uuid::from_u128(number)),
        topic: TopicName::messages(),
        text: Text::parse(text).unwrap(),
        subject: None,
        content_type: TEXT_PLAIN.to_owned(),
        attributes: Attributes::default(),
        accepted_at: Timestamp::from_millis(1_893_456_000_000),
        trace: TraceContext::default(),
    }
}

/// The ids that records are about, in order.
pub(crate) fn ids(published: &[Envelope]) -> Vec<u128> {
    published.iter().map(|envelope| Uuid::parse_str(&envelope.headers["id"]).unwrap().as_u128()).collect()
}
