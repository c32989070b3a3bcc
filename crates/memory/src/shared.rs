//! The one state behind every port.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidings_domain::{
    Error, Result,
    address::EmailAddress,
    api_key::ApiKey,
    dead_letter::DeadLetter,
    delivery::{Delivery, DeliveryKey, LeaseToken},
    id::{ApiKeyId, DeadLetterId, MessageId, SubscriptionId},
    item::Item,
    notification::Cursor,
    ports::{Entropy as _, Queue},
    subscription::Subscription,
    time::Timestamp,
    token::Secret,
    topic::{Topic, TopicName},
};
use tokio::sync::Notify;

use crate::{
    Event, Recorder, SeededEntropy, TakenMail,
    chance::epoch,
    consumer::{ConsumerState, QueueState},
};

/// How a memory is made.
#[derive(Clone)]
pub struct Options {
    /// What delays are drawn from.
    pub seed: u64,
    /// The longest delay before and after an effect, in milliseconds; 0 for none.
    pub delay_ms: u64,
    /// Bytes of body and headers of one publish.
    pub max_publish_bytes: usize,
    /// How long a bus lease lasts unless extended.
    pub bus_lease: Duration,
    /// How often a message is handed out before it goes to the safety net.
    pub max_returns: u32,
    /// Who takes down what happens.
    pub recorder: Recorder,
}

impl Options {
    /// Those of `seed`: delays of up to 3 ms, publishes of up to 1 MiB, leases of 30 s, 1,000 returns.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            delay_ms: 3,
            max_publish_bytes: 1024 * 1024,
            bus_lease: Duration::from_secs(30),
            max_returns: 1000,
            recorder: Recorder::new(),
        }
    }
}

/// A server as the world sees it: what can be away by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Bus and topology.
    Bus,
    /// All records.
    Store,
    /// The mail server.
    Mail,
}

pub(crate) struct Shared {
    state: Mutex<State>,
    entropy: SeededEntropy,
    pub(crate) options: Options,
    /// Something came into a queue, or a consumer's life changed.
    pub(crate) queues_changed: Notify,
    /// Something came into the change log, or the stream's reader changed.
    pub(crate) log_changed: Notify,
    /// A mail was taken.
    pub(crate) mailed: Notify,
}

pub(crate) struct State {
    /// Raised by a restart: handles of an earlier life are dead.
    pub(crate) life: u64,
    pub(crate) away: BTreeSet<Part>,
    pub(crate) blocked: bool,
    pub(crate) next_number: u64,
    // The bus.
    pub(crate) declared: BTreeSet<TopicName>,
    pub(crate) notifications_declared: bool,
    pub(crate) bound: BTreeSet<String>,
    pub(crate) queues: BTreeMap<Queue, QueueState>,
    pub(crate) consumers: BTreeMap<u64, ConsumerState>,
    // The table stream.
    pub(crate) log: BTreeMap<u64, Item>,
    pub(crate) log_end: u64,
    pub(crate) confirmed: u64,
    pub(crate) gap: bool,
    pub(crate) reader: Option<u64>,
    // Records.
    pub(crate) secret: Secret,
    pub(crate) topics: BTreeMap<TopicName, Topic>,
    pub(crate) keys: BTreeMap<ApiKeyId, ApiKey>,
    pub(crate) items: BTreeMap<MessageId, Item>,
    pub(crate) subscriptions: BTreeMap<SubscriptionId, Subscription>,
    pub(crate) addresses: BTreeMap<(TopicName, EmailAddress), SubscriptionId>,
    pub(crate) notifications: BTreeMap<(MessageId, u32), NotificationRow>,
    pub(crate) deliveries: BTreeMap<DeliveryKey, DeliveryRow>,
    pub(crate) open: BTreeSet<DeliveryKey>,
    pub(crate) dead_letters: BTreeMap<DeadLetterId, DeadLetterRow>,
    // Mail.
    pub(crate) mails: Vec<TakenMail>,
}

pub(crate) struct NotificationRow {
    pub(crate) captured_at: Timestamp,
    pub(crate) published_at: Timestamp,
    pub(crate) replay: Option<String>,
    pub(crate) cursor: Cursor,
    pub(crate) planned: u64,
}

pub(crate) struct DeliveryRow {
    pub(crate) delivery: Delivery,
    pub(crate) lease: Option<(LeaseToken, Timestamp)>,
    /// Whether the attempt that `sending` stands for is counted already, as unknown.
    pub(crate) counted: bool,
}

pub(crate) struct DeadLetterRow {
    pub(crate) letter: DeadLetter,
    pub(crate) lease: Option<(LeaseToken, Timestamp)>,
}

impl Shared {
    pub(crate) fn new(options: Options) -> Self {
        let entropy = SeededEntropy::new(options.seed);
        let mut secret = [0; 32];
        entropy.fill(&mut secret);
        let messages = TopicName::messages();
        let state = State {
            life: 1,
            away: BTreeSet::new(),
            blocked: false,
            next_number: 1,
            declared: BTreeSet::new(),
            notifications_declared: false,
            bound: BTreeSet::new(),
            queues: BTreeMap::new(),
            consumers: BTreeMap::new(),
            log: BTreeMap::new(),
            log_end: 0,
            confirmed: 0,
            gap: false,
            reader: None,
            secret: Secret::new(secret),
            topics: BTreeMap::from([(
                messages.clone(),
                Topic { name: messages, subject: None, created_at: epoch() },
            )]),
            keys: BTreeMap::new(),
            items: BTreeMap::new(),
            subscriptions: BTreeMap::new(),
            addresses: BTreeMap::new(),
            notifications: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            open: BTreeSet::new(),
            dead_letters: BTreeMap::new(),
            mails: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            entropy,
            options,
            queues_changed: Notify::new(),
            log_changed: Notify::new(),
            mailed: Notify::new(),
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn record(&self, event: Event) {
        self.options.recorder.record(event);
    }

    /// One delay, of 0 up to the longest; none at all where the longest is 0.
    pub(crate) async fn pause(&self) {
        if self.options.delay_ms == 0 {
            return;
        }
        match self.entropy.below(self.options.delay_ms + 1) {
            0 => tokio::task::yield_now().await,
            delay_ms => tokio::time::sleep(Duration::from_millis(delay_ms)).await,
        }
    }

    /// One operation of `part`: delay, effect, delay, answer.
    pub(crate) async fn operate<T>(
        &self,
        part: Part,
        effect: impl FnOnce(&mut State, &dyn Fn(Event)) -> Result<T> + Send,
    ) -> Result<T> {
        self.pause().await;
        let answer = {
            let mut state = self.lock();
            match state.check(part) {
                Ok(()) => effect(&mut state, &|event| self.record(event)),
                Err(error) => Err(error),
            }
        };
        self.pause().await;
        answer
    }
}

impl State {
    /// Unavailable while `part` is away.
    pub(crate) fn check(&self, part: Part) -> Result<()> {
        if self.away.contains(&part) {
            return Err(Error::unavailable(format!("the {part:?} of this memory is away")));
        }
        Ok(())
    }

    /// A number that no other call got.
    pub(crate) fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        number
    }

    /// A bus, a store and a reader begin a new life: what was held is given back.
    pub(crate) fn restart(&mut self) -> Vec<Event> {
        self.life += 1;
        self.reader = None;
        let epochs: Vec<u64> = self.consumers.keys().copied().collect();
        let mut events = Vec::new();
        for epoch in epochs {
            events.extend(self.drop_consumer(epoch, u32::MAX));
        }
        events
    }
}
