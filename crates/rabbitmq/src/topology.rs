//! `Topology`: durable fanout exchanges, quorum queues with their safety nets, and bindings.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use lapin::{
    Channel, ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};
use tidings_domain::{
    Error, ErrorKind, Result,
    ports::{BusTopic, MissingTopology, Queue, Topology},
    topic::TopicName,
};
use tokio::{
    sync::Mutex as AsyncMutex,
    time::{Instant, timeout},
};

use crate::{
    failure,
    link::{Link, Live},
    management::{Binding, Management},
    metrics::Metrics,
    names::{Names, queue_of, short},
    standing::Standing,
    usage::Usage,
};

/// One exchange, queue or binding.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Who has not asked for topics in this time looks after them no more: three looks of promise 2.
const ATTENTION: Duration = Duration::from_secs(15);

/// The port, for all who ask for it.
pub(crate) struct RabbitTopology {
    pub(crate) link: Arc<Link>,
    /// Where publishes go: what was declared need not be looked for again there.
    pub(crate) publishing: Arc<Link>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) names: Arc<Names>,
    pub(crate) management: Option<Management>,
    pub(crate) declares: bool,
    pub(crate) metrics: Metrics,
    usage: Arc<Usage>,
    /// Every topic that was asked for in this process: declared again when a queue of ours was found missing.
    asked: Mutex<BTreeSet<TopicName>>,
    /// What was asked for of late, and when.
    attended: Mutex<Option<(Instant, BTreeSet<TopicName>)>>,
    /// Declaring is idempotent, so one at a time is enough; its channel is kept between the looks.
    channel: AsyncMutex<Option<(u64, Channel)>>,
}

impl RabbitTopology {
    pub(crate) fn new(
        (link, publishing): (Arc<Link>, Arc<Link>),
        standing: Arc<Standing>,
        names: Arc<Names>,
        management: Option<Management>,
        declares: bool,
        (metrics, usage): (Metrics, Arc<Usage>),
    ) -> Self {
        // The topic that always exists.
        let asked = Mutex::new(BTreeSet::from([TopicName::messages()]));
        let (attended, channel) = (Mutex::default(), AsyncMutex::new(None));
        Self {
            link,
            publishing,
            standing,
            names,
            management,
            declares,
            metrics,
            usage,
            asked,
            attended,
            channel,
        }
    }

    /// Makes a consumer's queue stand again with all bindings that this process knows of. Nothing in `topology = verify`.
    pub(crate) async fn restore(&self, queue: Queue) -> Result<()> {
        if !self.declares {
            return Ok(());
        }
        let mut topics = self.asked_topics();
        let exchanges = self.usage.snapshot().exchanges;
        topics.extend(exchanges.iter().filter_map(|exchange| self.names.topic_of(exchange)));
        match self.ready(queue).await {
            Ok(_) => {}
            // Its bindings went with it, also those of topics that nobody has asked for here.
            Err(error) if error.kind == ErrorKind::NotFound => {
                self.metrics.missing(1);
                let name = self.names.queue(queue);
                tracing::error!(
                    name,
                    "a consumer found its queue missing: what was published meanwhile may be lost to us"
                );
                let listed = self.listed().await;
                topics.extend(listed.iter().filter_map(|exchange| self.names.topic_of(exchange)));
            }
            Err(error) => return Err(error),
        }
        self.stand(&all_topics(&topics), &Queue::ALL).await
    }

    /// Exchanges of topics that stand, as far as the management tells.
    pub(crate) async fn listed(&self) -> BTreeSet<String> {
        let Some(management) = &self.management else { return BTreeSet::new() };
        let mut exchanges = management.exchanges().await.unwrap_or_default();
        exchanges.retain(|exchange| self.names.topic_of(exchange).is_some());
        exchanges
    }

    /// Whether nobody can tell that a binding is missing.
    pub(crate) fn is_blind(&self) -> bool {
        self.management.as_ref().is_none_or(Management::is_away)
    }

    /// The topics that somebody in this process looks after and counts: who asks for them again and again. With them go the
    /// notifications and all queues.
    pub(crate) fn attended(&self) -> Option<BTreeSet<TopicName>> {
        let attended = self.attended.lock().unwrap_or_else(PoisonError::into_inner);
        attended.as_ref().filter(|(at, _)| at.elapsed() < ATTENTION).map(|(_, topics)| topics.clone())
    }

    /// Notes that somebody looks after `topics`: these and no others where `all`.
    fn attend(&self, topics: &[TopicName], all: bool) {
        let mut attended = self.attended.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, known) = attended.get_or_insert_with(|| (Instant::now(), BTreeSet::new()));
        *at = Instant::now();
        if all {
            known.clear();
        }
        known.extend(topics.iter().cloned());
    }

    /// Every topic that was asked for.
    pub(crate) fn asked_topics(&self) -> BTreeSet<TopicName> {
        self.asked().clone()
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, BTreeSet<TopicName>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remember(&self, topics: &[TopicName]) {
        let mut asked = self.asked();
        for topic in topics {
            if !asked.contains(topic) {
                asked.insert(topic.clone());
            }
        }
    }

    async fn live(&self) -> Result<Arc<Live>> {
        self.link.live(Instant::now() + STEP_TIMEOUT).await
    }

    /// Makes `topics` and `queues` stand, and binds the ones to the others.
    pub(crate) async fn stand(&self, topics: &[BusTopic], queues: &[Queue]) -> Result<()> {
        let live = self.live().await?;
        let mut kept = self.channel.lock().await;
        let channel = match kept.take() {
            Some((epoch, channel)) if epoch == live.epoch && channel.status().connected() => channel,
            _ => live.channel().await?,
        };
        for topic in topics {
            self.exchange(&channel, topic, false).await?;
        }
        for queue in queues {
            self.queue(&channel, *queue, false).await?;
        }
        for topic in topics {
            self.bind(&channel, topic).await?;
        }
        // An error leaves its channel closed; only a whole one is kept.
        *kept = Some((live.epoch, channel));
        if let Some(epoch) = self.publishing.epoch() {
            topics.iter().for_each(|topic| self.standing.add(epoch, &self.names.exchange(topic)));
        }
        Ok(())
    }

    async fn exchange(&self, channel: &Channel, topic: &BusTopic, passive: bool) -> Result<()> {
        let name = self.names.exchange(topic);
        let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
        let declaring =
            channel.exchange_declare(short(&name), ExchangeKind::Fanout, options, FieldTable::default());
        step(&format!("declare the exchange {name}"), declaring).await
    }

    /// Answers how many messages wait in it.
    async fn queue(&self, channel: &Channel, queue: Queue, passive: bool) -> Result<u32> {
        let name = self.names.queue(queue);
        let options = QueueDeclareOptions { passive, ..QueueDeclareOptions::durable() };
        // The broker compares none where it is only asked.
        let arguments = if passive { FieldTable::default() } else { self.names.arguments(queue) };
        let declaring = channel.queue_declare(short(&name), options, arguments);
        let declared = step(&format!("declare the queue {name}"), declaring).await?;
        Ok(declared.message_count())
    }

    /// How many messages wait in `queue`.
    pub(crate) async fn ready(&self, queue: Queue) -> Result<u32> {
        let live = self.live().await?;
        let channel = live.channel().await?;
        self.queue(&channel, queue, true).await
    }

    async fn bind(&self, channel: &Channel, topic: &BusTopic) -> Result<()> {
        let (exchange, queue) = (self.names.exchange(topic), self.names.queue(queue_of(topic)));
        let binding = channel.queue_bind(
            short(&queue),
            short(&exchange),
            ShortString::default(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        step(&format!("bind the queue {queue} to the exchange {exchange}"), binding).await
    }

    /// Binds `topics` without being asked: that is idempotent. One that does not stand is for the next look.
    pub(crate) async fn bind_blindly(&self, topics: &[BusTopic]) -> Result<()> {
        let live = self.live().await?;
        let mut looker = Looker { live: &live, channel: None };
        for topic in topics {
            let channel = looker.channel().await?;
            match self.bind(&channel, topic).await {
                Err(error) if error.kind == ErrorKind::NotFound => looker.channel = None,
                bound => bound?,
            }
        }
        Ok(())
    }

    /// Looks, and creates nothing. `listed`: exchanges that are known to stand.
    pub(crate) async fn look(
        &self,
        topics: &[BusTopic],
        wanted: &[Queue],
        listed: &BTreeSet<String>,
    ) -> Result<Vec<MissingTopology>> {
        let live = self.live().await?;
        let mut missing = Vec::new();
        let mut looker = Looker { live: &live, channel: None };
        let mut standing = Vec::new();
        for topic in topics {
            if listed.contains(&self.names.exchange(topic)) {
                standing.push(topic);
                continue;
            }
            let channel = looker.channel().await?;
            match self.exchange(&channel, topic, true).await {
                Ok(()) => standing.push(topic),
                Err(error) => looker.missing(error, self.names.exchange(topic), &mut missing)?,
            }
        }
        let mut queues = Vec::new();
        for queue in wanted.iter().copied() {
            let channel = looker.channel().await?;
            match self.queue(&channel, queue, true).await {
                Ok(_) => queues.push(queue),
                Err(error) => looker.missing(error, self.names.queue(queue), &mut missing)?,
            }
        }
        if !self.declares {
            missing.extend(self.look_at_arguments(&queues).await);
        }
        // A binding at one end of which nothing stands is missing with it, and not named apart.
        standing.retain(|topic| queues.contains(&queue_of(topic)));
        missing.extend(self.look_for_bindings(&standing, &queues).await);
        Ok(missing)
    }

    /// Where declaring is ours, the broker compares a queue with what we declare, and says *conflict*. Where it is an operator's,
    /// only the management can tell that a queue stands without, say, our limit of deliveries, and would drop messages.
    async fn look_at_arguments(&self, queues: &[Queue]) -> Vec<MissingTopology> {
        let mut missing = Vec::new();
        let Some(management) = &self.management else { return missing };
        for queue in queues {
            let name = self.names.queue(*queue);
            let Some(shape) = management.shape(&name).await else { return missing };
            for (argument, wanted) in &self.names.arguments(*queue) {
                let (argument, wanted) = (argument.as_str(), json(wanted));
                let found = shape.value(argument);
                if found != Some(&wanted) {
                    let found = found.map_or_else(|| "none".to_owned(), ToString::to_string);
                    let name = format!("{argument} = {wanted} of the queue {name} (it has {found})");
                    missing.push(MissingTopology { name });
                }
            }
        }
        missing
    }

    /// AMQP cannot ask for a binding; the management API can. Without that none is found missing: where declaring is ours, the
    /// keeper binds what is used without asking.
    async fn look_for_bindings(&self, topics: &[&BusTopic], queues: &[Queue]) -> Vec<MissingTopology> {
        let Some(management) = &self.management else { return Vec::new() };
        let names: Vec<_> = queues
            .iter()
            .filter(|queue| topics.iter().any(|topic| queue_of(topic) == **queue))
            .map(|queue| self.names.queue(*queue))
            .collect();
        let Some(bindings) = management.bindings(&names).await else { return Vec::new() };
        let stands = |topic: &BusTopic| {
            bindings.contains(&Binding {
                exchange: self.names.exchange(topic),
                queue: self.names.queue(queue_of(topic)),
            })
        };
        let missing = topics.iter().filter(|topic| !stands(topic));
        missing.map(|topic| MissingTopology { name: self.names.binding(topic) }).collect()
    }
}

#[async_trait]
impl Topology for RabbitTopology {
    async fn declare(&self, topics: &[TopicName]) -> Result<()> {
        self.remember(topics);
        self.attend(topics, false);
        if self.declares {
            return self.stand(&all_topics(topics), &Queue::ALL).await;
        }
        let missing = self.look(&all_topics(topics), &Queue::ALL, &BTreeSet::new()).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = missing.into_iter().map(|missing| missing.name).collect();
        Err(Error::misconfigured(format!(
            "declare the topology: topology = verify, and missing are {}: whoever runs the broker makes them",
            names.join(", ")
        )))
    }

    async fn verify(&self, topics: &[TopicName]) -> Result<Vec<MissingTopology>> {
        self.remember(topics);
        self.attend(topics, true);
        self.look(&all_topics(topics), &Queue::ALL, &BTreeSet::new()).await
    }
}

/// An argument of ours as the management writes it.
fn json(value: &AMQPValue) -> serde_json::Value {
    match value {
        AMQPValue::LongString(text) => text.to_string().into(),
        AMQPValue::LongLongInt(number) => (*number).into(),
        _ => serde_json::Value::Null,
    }
}

/// The notifications topic and `topics`.
fn all_topics<'a>(topics: impl IntoIterator<Item = &'a TopicName>) -> Vec<BusTopic> {
    std::iter::once(BusTopic::Notifications)
        .chain(topics.into_iter().cloned().map(BusTopic::Messages))
        .collect()
}

/// Runs one step within its time.
async fn step<T>(what: &str, doing: impl Future<Output = lapin::Result<T>>) -> Result<T> {
    match timeout(STEP_TIMEOUT, doing).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => Err(failure::failed(what, error)),
        Err(_) => Err(Error::unavailable(format!("{what}: the broker does not answer"))),
    }
}

/// A channel to look by: whatever is found missing ends it.
struct Looker<'a> {
    live: &'a Live,
    channel: Option<Channel>,
}

impl Looker<'_> {
    async fn channel(&mut self) -> Result<Channel> {
        if let Some(channel) = self.channel.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.live.channel().await?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }

    fn missing(&mut self, error: Error, name: String, missing: &mut Vec<MissingTopology>) -> Result<()> {
        self.channel = None;
        if error.kind != ErrorKind::NotFound {
            return Err(error);
        }
        missing.push(MissingTopology { name });
        Ok(())
    }
}
