//! How many messages wait in the queues that are consumed here, for the metric alone.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tidings_domain::ports::Queue;
use tokio::time::sleep;

use crate::{metrics::Metrics, topology::RabbitTopology};

/// How often is looked: one question for each queue.
const EVERY: Duration = Duration::from_secs(15);

/// Looks after the metric.
pub(crate) struct Depth {
    pub(crate) topology: Arc<RabbitTopology>,
    pub(crate) metrics: Metrics,
    consumed: Mutex<BTreeSet<Queue>>,
}

impl Depth {
    pub(crate) fn new(topology: Arc<RabbitTopology>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { topology, metrics, consumed: Mutex::default() })
    }

    /// Notes that `queue` is consumed here.
    pub(crate) fn consumed(&self, queue: Queue) {
        self.consumed.lock().unwrap_or_else(PoisonError::into_inner).insert(queue);
    }

    /// Looks again and again. What cannot be seen now is seen later.
    pub(crate) async fn run(self: Arc<Self>) {
        loop {
            sleep(EVERY).await;
            let queues = self.consumed.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for queue in queues {
                if let Ok(ready) = self.topology.ready(queue).await {
                    self.metrics.ready(queue, ready);
                }
            }
        }
    }
}
