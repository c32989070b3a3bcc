//! `Bus`.

use std::sync::Arc;

use crate::{
    link::Link,
    message::MAX_PUBLISH_BYTES,
    metrics::Metrics,
    names::Names,
    publisher::{MAX_WINDOW, Publisher},
    renewal::{Opening, RenewedConsumer},
    topology::RabbitTopology,
    usage::Usage,
};
use async_trait::async_trait;
use tidings_domain::{
    Result,
    ports::{Bus, BusCapabilities, BusTopic, Consumer, Queue},
    wire::Envelope,
};

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
        // The queue may have been deleted, which is one way for a consumer to end.
        self.topology.restore(queue).await?;
        let link = if queue.safety_net().is_some() { &self.consuming } else { &self.nets };
        let opening = Opening {
            link: Arc::clone(link),
            queue,
            prefetch,
            names: Arc::clone(&self.names),
            metrics: self.metrics.clone(),
            usage: Arc::clone(&self.usage),
        };
        let consumer = opening.open().await?;
        Ok(Box::new(RenewedConsumer::new(opening, consumer)))
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
