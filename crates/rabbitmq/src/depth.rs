//! How many messages wait in the queues that are consumed here, for the metric alone.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{metrics::Metrics, topology::RabbitTopology, usage::Usage};

/// How often is looked: one question for each queue.
const EVERY: Duration = Duration::from_secs(15);

/// Looks after the metric.
pub(crate) struct Depth {
    pub(crate) topology: Arc<RabbitTopology>,
    pub(crate) usage: Arc<Usage>,
    pub(crate) metrics: Metrics,
}

impl Depth {
    /// Looks again and again. What cannot be seen now is seen later.
    pub(crate) async fn run(self) {
        loop {
            sleep(EVERY).await;
            for queue in self.usage.snapshot().consumed {
                if let Ok(ready) = self.topology.ready(queue).await {
                    self.metrics.ready(queue, ready);
                }
            }
        }
    }
}
