//! A consumer that is opened anew while it is idle.
//!
//! RabbitMQ lets a consumer live on whose queue was deleted and made again before it was told: it goes over to the new queue, is
//! shown there, gets messages assigned, and its channel drops them, since they are numbered from the beginning and it takes
//! them for old ones (3.10, quorum queues). Nothing tells the client: only another channel hears again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use lapin::{
    options::{BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tidings_domain::{
    Error, Result,
    ports::{Consumer, Lease, Queue, Received, Settlement},
};
use tokio::time::{Instant, timeout};

use crate::{
    consumer::RabbitConsumer,
    failure,
    link::{CHANNEL_TIMEOUT, Link},
    metrics::Metrics,
    names::{Names, short},
    usage::Usage,
};

/// The most that a quorum queue hands out to one consumer ahead of its acknowledgements.
const MAX_PREFETCH: u16 = 2000;

/// How long nothing may come until another channel is opened.
const RENEW_AFTER: Duration = Duration::from_secs(30);

/// How a consumer of a queue is opened.
pub(crate) struct Opening {
    pub(crate) link: Arc<Link>,
    pub(crate) queue: Queue,
    pub(crate) prefetch: usize,
    pub(crate) names: Arc<Names>,
    pub(crate) metrics: Metrics,
    pub(crate) usage: Arc<Usage>,
}

impl Opening {
    /// A channel of its own with a consumer.
    pub(crate) async fn open(&self) -> Result<RabbitConsumer> {
        let name = self.names.queue(self.queue);
        let live = self.link.live(Instant::now() + CHANNEL_TIMEOUT).await?;
        let channel = live.channel().await?;
        let cautious = self.link.cautious_until();
        let prefetch = if cautious.is_some() { 1 } else { self.prefetch };
        let prefetch =
            u16::try_from(prefetch.max(1)).map_or(MAX_PREFETCH, |prefetch| prefetch.min(MAX_PREFETCH));
        let opening = async {
            // Before the consumer, which would else be handed everything.
            channel.basic_qos(prefetch, BasicQosOptions { global: false }).await?;
            let options = BasicConsumeOptions { no_ack: false, ..BasicConsumeOptions::default() };
            channel.basic_consume(short(&name), ShortString::default(), options, FieldTable::default()).await
        };
        match timeout(CHANNEL_TIMEOUT, opening).await {
            Ok(Ok(stream)) => {
                self.usage.consumed(self.queue);
                let parts = (Arc::clone(&self.names), self.metrics.clone(), Arc::clone(&self.usage));
                Ok(RabbitConsumer::new(channel, stream, parts, cautious))
            }
            Ok(Err(error)) if failure::is_not_found(&error) => Err(Error::misconfigured(format!(
                "consume {name}: the queue does not stand: run `tidings provision`, or make it where topology = verify"
            ))),
            Ok(Err(error)) => Err(failure::failed(&format!("consume {name}"), error)),
            Err(_) => Err(Error::unavailable(format!("consume {name}: the broker does not answer"))),
        }
    }
}

/// The port.
pub(crate) struct RenewedConsumer {
    opening: Opening,
    consumer: Mutex<Arc<RabbitConsumer>>,
    /// When something came last, or it was opened.
    heard_at: Mutex<Instant>,
    stopping: AtomicBool,
}

impl RenewedConsumer {
    pub(crate) fn new(opening: Opening, consumer: RabbitConsumer) -> Self {
        Self {
            opening,
            consumer: Mutex::new(Arc::new(consumer)),
            heard_at: Mutex::new(Instant::now()),
            stopping: AtomicBool::new(false),
        }
    }

    fn current(&self) -> Arc<RabbitConsumer> {
        Arc::clone(&self.consumer.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn hears(&self) {
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn heard_at(&self) -> Instant {
        *self.heard_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens another and ends the one before, whose unread messages go back to the queue. It holds no lease.
    async fn renew(&self, before: &RabbitConsumer) -> Result<()> {
        let another = Arc::new(self.opening.open().await?);
        *self.consumer.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&another);
        self.hears();
        before.close().await;
        if self.stopping.load(Ordering::Acquire) {
            another.stop().await;
        }
        Ok(())
    }
}

#[async_trait]
impl Consumer for RenewedConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Received>> {
        let deadline = Instant::now() + wait;
        loop {
            let consumer = self.current();
            let renew_at = self.heard_at() + RENEW_AFTER;
            let wait = renew_at.min(deadline).saturating_duration_since(Instant::now());
            let received = consumer.receive(max, wait).await?;
            if !received.is_empty() || max == 0 || self.stopping.load(Ordering::Acquire) {
                self.hears();
                return Ok(received);
            }
            if Instant::now() >= renew_at && consumer.holds_nothing() {
                self.renew(&consumer).await?;
            }
            if Instant::now() >= deadline {
                return Ok(received);
            }
            // Whoever holds something is not idle.
            if Instant::now() >= self.heard_at() + RENEW_AFTER {
                self.hears();
            }
        }
    }

    async fn extend(&self, leases: &[Lease]) -> Vec<Result<()>> {
        self.current().extend(leases).await
    }

    fn is_lost(&self) -> bool {
        self.current().is_lost()
    }

    async fn settle(&self, settlements: Vec<(Lease, Settlement)>) -> Vec<Result<()>> {
        self.current().settle(settlements).await
    }

    async fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.current().stop().await;
    }
}
