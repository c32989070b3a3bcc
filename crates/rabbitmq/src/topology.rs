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
    Error, Result,
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
    names::{Names, queue_of, short},
    standing::Standing,
};

/// One exchange, queue or binding.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// The port, for all who ask for it.
pub(crate) struct RabbitTopology {
    pub(crate) link: Arc<Link>,
    /// Where publishes go: what was declared need not be looked for again there.
    pub(crate) publishing: Arc<Link>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) names: Arc<Names>,
    pub(crate) management: Option<Management>,
    pub(crate) declares: bool,
    /// Every topic that was asked for in this process: declared again when a queue of ours was found missing.
    asked: Mutex<BTreeSet<TopicName>>,
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
    ) -> Self {
        // The topic that always exists.
        let asked = Mutex::new(BTreeSet::from([TopicName::messages()]));
        let channel = AsyncMutex::new(None);
        Self { link, publishing, standing, names, management, declares, asked, channel }
    }

    /// Makes a consumer's queue stand again with all bindings that this process knows of. Nothing in `topology = verify`.
    pub(crate) async fn restore(&self) -> Result<()> {
        if !self.declares {
            return Ok(());
        }
        let topics: Vec<_> = self.asked().iter().cloned().collect();
        self.make(&topics).await
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

    async fn make(&self, topics: &[TopicName]) -> Result<()> {
        let live = self.live().await?;
        let mut kept = self.channel.lock().await;
        let channel = match kept.take() {
            Some((epoch, channel)) if epoch == live.epoch && channel.status().connected() => channel,
            _ => live.channel().await?,
        };
        let topics = all_topics(topics);
        for topic in &topics {
            self.exchange(&channel, topic, false).await?;
        }
        for queue in Queue::ALL {
            self.queue(&channel, queue, false).await?;
        }
        for topic in &topics {
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
        let declaring = channel.queue_declare(short(&name), options, self.names.arguments(queue));
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

    /// Looks, and creates nothing, but for bindings that cannot be looked for: see [`Self::look_for_bindings`].
    async fn look(&self, topics: &[TopicName]) -> Result<Vec<MissingTopology>> {
        let live = self.live().await?;
        let topics = all_topics(topics);
        let mut missing = Vec::new();
        let mut looker = Looker { live: &live, channel: None };
        let mut standing = Vec::new();
        for topic in &topics {
            let channel = looker.channel().await?;
            match self.exchange(&channel, topic, true).await {
                Ok(()) => standing.push(topic),
                Err(error) => looker.missing(error, self.names.exchange(topic), &mut missing)?,
            }
        }
        let mut queues = Vec::new();
        for queue in Queue::ALL {
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
        missing.extend(self.look_for_bindings(&mut looker, &standing, &queues).await?);
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

    /// AMQP cannot ask for a binding; the management API can. Without that, and where declaring is ours, bindings are declared
    /// again without being asked for: that is idempotent, and a missing one is then mended unseen, at each look.
    async fn look_for_bindings(
        &self,
        looker: &mut Looker<'_>,
        topics: &[&BusTopic],
        queues: &[Queue],
    ) -> Result<Vec<MissingTopology>> {
        let mut bindings = None;
        if let Some(management) = &self.management {
            let names: Vec<_> = queues
                .iter()
                .filter(|queue| topics.iter().any(|topic| queue_of(topic) == **queue))
                .map(|queue| self.names.queue(*queue))
                .collect();
            bindings = management.bindings(&names).await;
        }
        let Some(bindings) = bindings else {
            if self.declares {
                for topic in topics {
                    let channel = looker.channel().await?;
                    self.bind(&channel, topic).await?;
                }
            }
            return Ok(Vec::new());
        };
        let wanted = topics.iter().map(|topic| Binding {
            exchange: self.names.exchange(topic),
            queue: self.names.queue(queue_of(topic)),
        });
        let name = |binding: Binding| format!("binding of {} to {}", binding.queue, binding.exchange);
        Ok(wanted
            .filter(|wanted| !bindings.contains(wanted))
            .map(|wanted| MissingTopology { name: name(wanted) })
            .collect())
    }
}

#[async_trait]
impl Topology for RabbitTopology {
    async fn declare(&self, topics: &[TopicName]) -> Result<()> {
        self.remember(topics);
        if self.declares {
            return self.make(topics).await;
        }
        let missing = self.look(topics).await?;
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
        self.look(topics).await
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
fn all_topics(topics: &[TopicName]) -> Vec<BusTopic> {
    std::iter::once(BusTopic::Notifications).chain(topics.iter().cloned().map(BusTopic::Messages)).collect()
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
        if error.kind != tidings_domain::ErrorKind::NotFound {
            return Err(error);
        }
        missing.push(MissingTopology { name });
        Ok(())
    }
}
