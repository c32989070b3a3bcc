//! What this process publishes to and consumes, and what it has found missing: the keeper looks after that and no more.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tidings_domain::ports::{BusTopic, Queue};
use tokio::sync::Notify;

/// What is used here. A process that only looks (`tidings provision --check`) uses nothing.
#[derive(Default)]
pub(crate) struct Usage {
    used: Mutex<Used>,
    found_missing: Notify,
}

/// As of one moment.
#[derive(Clone, Default)]
pub(crate) struct Used {
    /// Whose exchange stood when a publish looked for it.
    pub(crate) published: BTreeSet<BusTopic>,
    pub(crate) consumed: BTreeSet<Queue>,
    /// Exchanges through which messages came.
    pub(crate) exchanges: BTreeSet<String>,
    missing: BTreeSet<BusTopic>,
}

impl Usage {
    /// Notes that `topic`, whose exchange stands, is published to.
    pub(crate) fn published(&self, topic: &BusTopic) {
        let mut used = self.lock();
        if !used.published.contains(topic) {
            used.published.insert(topic.clone());
        }
    }

    /// Notes that `queue` is consumed.
    pub(crate) fn consumed(&self, queue: Queue) {
        self.lock().consumed.insert(queue);
    }

    /// Notes that a message came through `exchange`.
    pub(crate) fn came_through(&self, exchange: &str) {
        let mut used = self.lock();
        if !used.exchanges.contains(exchange) {
            used.exchanges.insert(exchange.to_owned());
        }
    }

    /// Notes that a publish found `topic`, or its binding, missing. One that never stood is whoever wants it to make.
    pub(crate) fn missed(&self, topic: &BusTopic) {
        let mut used = self.lock();
        if *topic == BusTopic::Notifications || used.published.contains(topic) {
            used.missing.insert(topic.clone());
            self.found_missing.notify_one();
        }
    }

    /// Waits until publishes have found something missing, and takes it. Cancel-safe.
    pub(crate) async fn missing(&self) -> BTreeSet<BusTopic> {
        loop {
            let missing = std::mem::take(&mut self.lock().missing);
            if !missing.is_empty() {
                return missing;
            }
            self.found_missing.notified().await;
        }
    }

    pub(crate) fn snapshot(&self) -> Used {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tidings_domain::topic::TopicName;

    use super::*;

    #[test]
    fn only_what_stood_is_missed() {
        let usage = Usage::default();
        let orders = BusTopic::Messages(TopicName::parse("orders").unwrap());
        usage.missed(&orders);
        assert_eq!(usage.missing().now_or_never(), None, "nobody has made it");
        usage.published(&orders);
        usage.missed(&orders);
        usage.missed(&BusTopic::Notifications);
        let both = BTreeSet::from([orders, BusTopic::Notifications]);
        assert_eq!(usage.missing().now_or_never(), Some(both));
        assert_eq!(usage.missing().now_or_never(), None, "taken once");
    }
}
