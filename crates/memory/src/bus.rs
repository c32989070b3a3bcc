//! `Bus`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    ports::{Bus, BusCapabilities, BusTopic, Consumer, Queue},
    wire::Envelope,
};
use tokio::time::Instant;

use crate::{
    Event, Memory, Part,
    consumer::MemoryConsumer,
    shared::{Shared, State},
};

/// How long a publish waits for a blocked broker.
const PUBLISH_LIMIT: Duration = Duration::from_secs(5);

impl State {
    /// The queue that `topic` is bound to.
    fn route(&self, topic: &BusTopic) -> Result<Queue> {
        let (declared, name, queue) = match topic {
            BusTopic::Messages(name) => (self.declared.contains(name), name.as_str(), Queue::Items),
            BusTopic::Notifications => {
                (self.notifications_declared, crate::topology::NOTIFICATIONS, Queue::Mail)
            }
        };
        if !declared {
            return Err(Error::not_found(format!("no topic {name} stands: declare it")));
        }
        if !self.bound.contains(name) {
            return Err(Error::misconfigured(format!("topic {name} is not bound to our queue: declare it")));
        }
        Ok(queue)
    }

    fn publish(&mut self, topic: &BusTopic, mut envelope: Envelope, max_bytes: usize) -> Result<Event> {
        self.check(Part::Bus)?;
        let beside: usize = envelope.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = beside + envelope.body.len();
        if bytes > max_bytes {
            return Err(Error::rejected(format!(
                "a publish of {bytes} bytes, at most {max_bytes} are carried"
            )));
        }
        let queue = self.route(topic)?;
        if let BusTopic::Messages(name) = topic {
            envelope.published_to = Some(name.clone());
        }
        let message = self.put_message(queue, envelope.clone());
        Ok(Event::Published { topic: topic.clone(), message, envelope })
    }
}

impl Shared {
    /// Waits while the broker is blocked, up to the limit; whether it still is.
    async fn is_blocked(&self) -> bool {
        let deadline = Instant::now() + PUBLISH_LIMIT;
        loop {
            let changed = self.queues_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.lock().blocked {
                return false;
            }
            if Instant::now() >= deadline {
                return true;
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }
}

#[async_trait]
impl Bus for Memory {
    async fn publish(&self, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        let shared = self.shared();
        shared.pause().await;
        if shared.is_blocked().await {
            let unknown = || Error::unknown("no confirm in time: the broker is blocked");
            return batch.iter().map(|_| Err(unknown())).collect();
        }
        let answers = {
            let mut state = shared.lock();
            let max_bytes = shared.options.max_publish_bytes;
            let mut publish = |envelope| {
                let event = state.publish(topic, envelope, max_bytes)?;
                shared.record(event);
                Ok(())
            };
            batch.into_iter().map(&mut publish).collect()
        };
        shared.queues_changed.notify_waiters();
        shared.pause().await;
        answers
    }

    async fn consume(&self, queue: Queue, prefetch: usize) -> Result<Box<dyn Consumer>> {
        let shared = Arc::clone(self.shared());
        let consumer = self
            .shared()
            .operate(Part::Bus, move |state, _| Ok(MemoryConsumer::open(&shared, state, queue, prefetch)))
            .await?;
        Ok(Box::new(consumer))
    }

    fn capabilities(&self) -> BusCapabilities {
        let options = &self.shared().options;
        BusCapabilities {
            max_batch: 1000,
            max_publish_bytes: options.max_publish_bytes,
            lease: Some(options.bus_lease),
            release_is_uncounted: true,
        }
    }
}
