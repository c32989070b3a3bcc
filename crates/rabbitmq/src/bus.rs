//! `Bus`.

use std::sync::Arc;

use async_trait::async_trait;
use lapin::{
    options::{BasicConsumeOptions, BasicQosOptions},
    types::{FieldTable, ShortString},
};
use tidings_domain::{
    Error, Result,
    ports::{Bus, BusCapabilities, BusTopic, Consumer, Queue},
    wire::Envelope,
};
use tokio::time::{Instant, timeout};

use crate::{
    consumer::RabbitConsumer,
    failure,
    link::{CHANNEL_TIMEOUT, Link},
    message::MAX_PUBLISH_BYTES,
    metrics::Metrics,
    names::{Names, short},
    publisher::{MAX_WINDOW, Publisher},
    topology::RabbitTopology,
    usage::Usage,
};

/// The most that a quorum queue hands out to one consumer ahead of its acknowledgements.
const MAX_PREFETCH: u16 = 2000;

/// The port.
pub(crate) struct RabbitBus {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) consuming: Arc<Link>,
    /// For the safety nets.
    pub(crate) nets: Arc<Link>,
    pub(crate) topology: Arc<RabbitTopology>,
    pub(crate) names: Arc<Names>,
    pub(crate) metrics: Metrics,
    pub(crate) usage: Arc<Usage>,
}

#[async_trait]
impl Bus for RabbitBus {
    async fn publish(&self, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        self.publisher.publish(topic, batch).await
    }

    async fn consume(&self, queue: Queue, prefetch: usize) -> Result<Box<dyn Consumer>> {
        let name = self.names.queue(queue);
        // The queue may have been deleted, which is one way for a consumer to end.
        self.topology.restore(queue).await?;
        let link = if queue.safety_net().is_some() { &self.consuming } else { &self.nets };
        let live = link.live(Instant::now() + CHANNEL_TIMEOUT).await?;
        let channel = live.channel().await?;
        let cautious = link.cautious_until();
        let prefetch = if cautious.is_some() { 1 } else { prefetch };
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
                self.usage.consumed(queue);
                let parts = (Arc::clone(&self.names), self.metrics.clone(), Arc::clone(&self.usage));
                Ok(Box::new(RabbitConsumer::new(channel, stream, parts, cautious)))
            }
            Ok(Err(error)) if failure::is_not_found(&error) => Err(Error::misconfigured(format!(
                "consume {name}: the queue does not stand: run `tidings provision`, or make it where topology = verify"
            ))),
            Ok(Err(error)) => Err(failure::failed(&format!("consume {name}"), error)),
            Err(_) => Err(Error::unavailable(format!("consume {name}: the broker does not answer"))),
        }
    }

    fn capabilities(&self) -> BusCapabilities {
        BusCapabilities {
            max_batch: MAX_WINDOW,
            max_publish_bytes: MAX_PUBLISH_BYTES,
            // As long as its channel.
            lease: None,
            // RabbitMQ counts what is given back before 4.3, and not from then on.
            release_is_uncounted: false,
        }
    }
}
