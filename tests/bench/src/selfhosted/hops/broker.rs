//! The broker: mandatory publishes, each confirmed, and acknowledged consumption of the same messages from a quorum queue.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind,
    PublisherConfirm,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{AMQPValue, FieldTable, LongString},
};
use tidings_domain::{
    ports::{Bus, BusTopic, Queue},
    topic::TopicName,
    wire,
};
use tidings_rabbitmq::{Options, RabbitMq};
use tokio::task::JoinSet;

use super::{Hop, Rounds, Sample, Stopwatch};
use crate::{
    chance::{Counter, SystemClock},
    floors, load,
    selfhosted::servers::Servers,
};

/// Messages that a consumer is assigned at once, on both sides.
const PREFETCH: u16 = 1024;

/// Deliveries under one acknowledgement: of the floor's always, of ours at most.
const ACKNOWLEDGED: u64 = 128;

/// Publishers of ours that share what is in flight.
const PUBLISHERS: usize = 4;

/// Both sides with 64 and with 256 in flight.
pub(crate) async fn measure(servers: &Servers, rounds: Rounds) -> anyhow::Result<Vec<Hop>> {
    let pid = servers.pids().rabbitmq;
    let mut floor = Floor::open(&servers.rabbitmq.vhost().await).await?;
    let ours = Ours::open(&servers.rabbitmq.vhost().await).await?;
    let mut hops = Vec::new();
    for in_flight in [64, 256] {
        let mut hop = Hop::new(format!("confirmed publish and ack, {in_flight} in flight"));
        for _ in 0..rounds.rounds {
            hop.floor(floor.round(pid, rounds.count, in_flight).await?);
            hop.ours(ours.round(pid, rounds.count, in_flight).await?);
        }
        hops.push(hop);
    }
    floor.close().await?;
    ours.close().await;
    Ok(hops)
}

/// The floor: lapin alone, a connection to publish and one to consume.
struct Floor {
    publishing: Connection,
    consuming: Connection,
    channel: Channel,
    consumer: Option<(Channel, Consumer)>,
}

impl Floor {
    async fn open(url: &str) -> anyhow::Result<Self> {
        let publishing = Connection::connect(url, ConnectionProperties::default()).await?;
        let consuming = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = publishing.create_channel().await?;
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        channel
            .exchange_declare("floor".into(), ExchangeKind::Fanout, durable, FieldTable::default())
            .await?;
        let mut quorum = FieldTable::default();
        quorum.insert("x-queue-type".into(), AMQPValue::LongString(LongString::from("quorum")));
        channel.queue_declare("floor".into(), QueueDeclareOptions::durable(), quorum).await?;
        let (bind, none) = (QueueBindOptions::default(), FieldTable::default());
        channel.queue_bind("floor".into(), "floor".into(), "".into(), bind, none).await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let from = consuming.create_channel().await?;
        from.basic_qos(PREFETCH, BasicQosOptions::default()).await?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let consumer = from.basic_consume("floor".into(), "floor".into(), options, none).await?;
        Ok(Self { publishing, consuming, channel, consumer: Some((from, consumer)) })
    }

    /// Publishes and consumes `count` messages with so many unconfirmed.
    async fn round(&mut self, pid: u32, count: u64, in_flight: usize) -> anyhow::Result<Sample> {
        let stopwatch = Stopwatch::start(Some(pid))?;
        let (from, mut consumer) = self.consumer.take().context("the consumer is there")?;
        let consumed = tokio::spawn(async move {
            let mut unacknowledged = 0;
            for at in 0..count {
                let delivery = consumer.next().await.context("the consumer has ended")??;
                unacknowledged += 1;
                if unacknowledged == ACKNOWLEDGED || at + 1 == count {
                    from.basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true }).await?;
                    unacknowledged = 0;
                }
            }
            anyhow::Ok((from, consumer))
        });
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let properties = BasicProperties::default().with_delivery_mode(2);
        let mut unconfirmed = VecDeque::with_capacity(in_flight);
        for number in 0..count {
            // Half of them at a time: what is sent in one go costs both sides least.
            if unconfirmed.len() == in_flight {
                for confirm in unconfirmed.drain(..in_flight / 2) {
                    confirmed(confirm).await?;
                }
            }
            let body = load::body(number);
            let sent = self.channel.basic_publish(
                "floor".into(),
                "".into(),
                options,
                body.as_bytes(),
                properties.clone(),
            );
            unconfirmed.push_back(sent.await?);
        }
        for confirm in unconfirmed {
            confirmed(confirm).await?;
        }
        self.consumer = Some(consumed.await??);
        stopwatch.stop(count)
    }

    async fn close(self) -> anyhow::Result<()> {
        drop(self.consumer);
        self.publishing.close(200, "done".into()).await?;
        Ok(self.consuming.close(200, "done".into()).await?)
    }
}

async fn confirmed(confirm: PublisherConfirm) -> anyhow::Result<()> {
    let confirmation = confirm.await?;
    ensure!(matches!(confirmation, Confirmation::Ack(None)), "not confirmed: {confirmation:?}");
    Ok(())
}

/// Ours: the bus, batches from several callers.
struct Ours {
    rabbitmq: RabbitMq,
    bus: Arc<dyn Bus>,
    numbers: AtomicU64,
}

impl Ours {
    async fn open(url: &str) -> anyhow::Result<Self> {
        let rabbitmq = RabbitMq::new(Options {
            url: url.to_owned(),
            ca_file: None,
            management_url: None,
            namespace: "bench".to_owned(),
            name: "tidings-bench".to_owned(),
            declares: true,
            confirm_timeout: Duration::from_secs(10),
            unconfirmed: 256,
            entropy: Arc::new(Counter::default()),
            meter: opentelemetry::global::meter("bench"),
        })?;
        rabbitmq.topology().declare(&[TopicName::messages()]).await?;
        let bus = rabbitmq.bus();
        Ok(Self { rabbitmq, bus, numbers: AtomicU64::new(0) })
    }

    /// Publishes and consumes `count` messages with so many unconfirmed.
    async fn round(&self, pid: u32, count: u64, in_flight: usize) -> anyhow::Result<Sample> {
        let consumer = self.bus.consume(Queue::Items, usize::from(PREFETCH)).await?;
        let stopwatch = Stopwatch::start(Some(pid))?;
        let consumed = tokio::spawn(async move {
            let mut left = count;
            while left > 0 {
                let received =
                    consumer.receive(usize::try_from(ACKNOWLEDGED)?, Duration::from_secs(10)).await?;
                ensure!(!received.is_empty(), "{left} of {count} messages never came");
                left = left.saturating_sub(received.len() as u64);
                floors::answers(consumer.settle(floors::done(&received)).await)?;
            }
            anyhow::Ok(consumer)
        });
        let entropy = Arc::new(Counter::default());
        let published = Arc::new(AtomicU64::new(self.numbers.fetch_add(count, Ordering::Relaxed)));
        let end = published.load(Ordering::Relaxed) + count;
        let batch = (in_flight / PUBLISHERS).max(1) as u64;
        let mut publishers = JoinSet::new();
        for _ in 0..PUBLISHERS {
            let (bus, published, entropy) =
                (Arc::clone(&self.bus), Arc::clone(&published), Arc::clone(&entropy));
            publishers.spawn(async move {
                let topic = TopicName::messages();
                loop {
                    let from = published.fetch_add(batch, Ordering::Relaxed);
                    if from >= end {
                        return anyhow::Ok(());
                    }
                    let envelopes = (from..(from + batch).min(end))
                        .map(|number| {
                            let message =
                                floors::message(&topic, &load::body(number), &SystemClock, &*entropy);
                            wire::message::encode(&message)
                        })
                        .collect();
                    floors::answers(bus.publish(&BusTopic::Messages(topic.clone()), envelopes).await)?;
                }
            });
        }
        while let Some(publisher) = publishers.join_next().await {
            publisher??;
        }
        drop(consumed.await??);
        stopwatch.stop(count)
    }

    async fn close(self) {
        drop(self.bus);
        self.rabbitmq.close().await;
    }
}
