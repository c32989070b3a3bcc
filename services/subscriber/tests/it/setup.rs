use std::{collections::VecDeque, sync::Arc, time::Duration};

use tidings_domain::{
    Result,
    attributes::Attributes,
    dead_letter::{DeadLetter, DeadLetterSelection},
    id::MessageId,
    item::Item,
    message::{Message, TEXT_PLAIN},
    page::PageRequest,
    ports::{BusTopic, Queue},
    text::Text,
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
    wire,
};
use tidings_memory::{Memory, Options, SeededEntropy};
use tidings_runtime::{
    health::{Health, PartState},
    shutdown::Shutdown,
    telemetry::Telemetry,
};
use tidings_subscriber::{Context, Settings};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::faults::FaultyItems;

/// A running subscriber and the memory that it runs on.
pub(crate) struct Setup {
    pub(crate) memory: Memory,
    pub(crate) items: Arc<FaultyItems>,
    pub(crate) health: Health,
    pub(crate) telemetry: Telemetry,
    pub(crate) settings: Settings,
    pub(crate) shutdown: Shutdown,
    pub(crate) tasks: JoinSet<Result<()>>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let memory = Memory::new(Options { delay_ms: 0, ..Options::new(1) });
        let items = Arc::new(FaultyItems::new(memory.items()));
        Self {
            memory,
            items,
            health: Health::new(),
            telemetry: Telemetry::none(),
            settings: Settings::default(),
            shutdown: Shutdown::default(),
            tasks: JoinSet::new(),
        }
    }

    pub(crate) fn start(&mut self) {
        let context = Context {
            bus: self.memory.bus(),
            items: Arc::<FaultyItems>::clone(&self.items),
            dead_letters: self.memory.dead_letters(),
            clock: Arc::new(self.memory.clock()),
            entropy: Arc::new(SeededEntropy::new(2)),
            health: self.health.clone(),
            telemetry: self.telemetry.clone(),
            settings: self.settings.clone(),
        };
        self.tasks.spawn(tidings_subscriber::run(context, self.shutdown.clone()));
    }

    pub(crate) async fn stop(&mut self) {
        self.shutdown.request();
        let ended = tokio::time::timeout(Duration::from_secs(60), self.tasks.join_next()).await;
        ended.expect("it does not stop").expect("it runs").expect("no panic").expect("Ok");
    }

    /// Publishes to the topic of each.
    pub(crate) async fn publish(&self, messages: &[Message]) {
        for message in messages {
            let topic = BusTopic::Messages(message.topic.clone());
            let answers = self.memory.bus().publish(&topic, vec![wire::message::encode(message)]).await;
            answers.into_iter().for_each(|answer| answer.unwrap());
        }
    }

    pub(crate) async fn letters(&self) -> Vec<DeadLetter> {
        let all = DeadLetterSelection::default();
        self.memory.dead_letters().list(&all, &PageRequest::default()).await.unwrap().data
    }

    pub(crate) async fn item(&self, id: MessageId) -> Option<Item> {
        self.memory.items().get(&[id]).await.unwrap().pop().unwrap()
    }

    /// Waits until the queue is empty, that is: everything was settled.
    pub(crate) async fn until_empty(&self, queue: Queue) {
        self.until("the queue is empty", || self.memory.depth(queue) == 0).await;
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

    pub(crate) fn part(&self, name: &str) -> PartState {
        let absent = || PartState::Stopped("there is no such part".to_owned());
        self.health.report().parts.get(name).cloned().unwrap_or_else(absent)
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

/// The texts that begin with `text`, in order of their numbers.
pub(crate) fn messages(count: u128, text: &str) -> VecDeque<Message> {
    (1..=count).map(|number| message(number, &format!("{text} {number}"))).collect()
}
