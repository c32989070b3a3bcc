//! The keeper of the topology (promise 2): declared for all topics at start, looked at every few seconds, and mended at
//! once when a publish finds something missing.

use std::{sync::Arc, time::Duration};

use opentelemetry::metrics::{Counter, Meter};
use tidings_domain::{
    Error, Result,
    ports::{Clock, Topology},
    time::Timestamp,
    topic::TopicName,
};
use tidings_runtime::{
    health::{LastingFault, Part},
    metrics,
    shutdown::Shutdown,
};
use tokio::{sync::Mutex, time::Instant};

use crate::catalog_copy::CatalogCopy;

/// How soon a first declaration that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// One declaration.
struct Declared {
    topics: Vec<TopicName>,
    at: Instant,
    well: bool,
}

/// Keeps topics, queues and bindings standing.
pub(crate) struct TopologyKeeper {
    topology: Arc<dyn Topology>,
    missing: Counter<u64>,
    /// What was declared last, when, and whether that went well; held while it is: one request mends for all.
    declared: Mutex<Option<Declared>>,
}

impl TopologyKeeper {
    pub(crate) fn new(topology: Arc<dyn Topology>, meter: &Meter) -> Self {
        let description = "Topics, queues and bindings that were found missing and made again";
        let missing = metrics::counter(meter, "tidings.topology.missing", description);
        Self { topology, missing, declared: Mutex::default() }
    }

    /// Declares everything for `topics`.
    pub(crate) async fn declare(&self, topics: &[TopicName]) -> Result<()> {
        let mut declared = self.declared.lock().await;
        let outcome = self.topology.declare(topics).await;
        *declared = Some(Declared { topics: topics.to_vec(), at: Instant::now(), well: outcome.is_ok() });
        outcome
    }

    /// Declares `topic` anew after a publish that began at `since` found it, or a binding of it, missing. Where another
    /// request has tried since, that is the answer.
    pub(crate) async fn mend(&self, topic: &TopicName, since: Instant) -> Result<()> {
        let mut declared = self.declared.lock().await;
        if let Some(last) = declared.as_ref().filter(|last| last.at > since && last.topics.contains(topic)) {
            return match last.well {
                true => Ok(()),
                false => Err(Error::unavailable("another request could not declare it just now")),
            };
        }
        self.missing.add(1, &[]);
        tracing::error!(
            topic = topic.as_str(),
            "a publish found the topic or its binding missing: declared anew"
        );
        let topics = vec![topic.clone()];
        let outcome = self.topology.declare(&topics).await;
        *declared = Some(Declared { topics, at: Instant::now(), well: outcome.is_ok() });
        outcome
    }

    /// Declares at start, then looks every `every`, until shutdown.
    pub(crate) async fn keep(
        &self,
        copy: &CatalogCopy,
        clock: &dyn Clock,
        every: Duration,
        part: &Part,
        shutdown: &Shutdown,
    ) {
        let mut declared = false;
        let mut fault = LastingFault::default();
        // When all of it was seen to stand, or made.
        let mut stood_at = None;
        loop {
            let began_at = clock.now();
            let outcome = self.round(copy, declared, stood_at).await;
            match outcome {
                Ok(()) => {
                    declared = true;
                    fault.ended();
                    stood_at = Some(began_at);
                    part.up();
                }
                Err(error) => {
                    // The part logs it: once, while it lasts.
                    let reason = format!("topics, queues and bindings: {}", fault.reason(&error));
                    if declared { part.degraded(reason) } else { part.waiting(reason) }
                }
            }
            if !shutdown.sleep(if declared { every } else { RETRY }).await {
                return;
            }
        }
    }

    /// One look; declares when something is missing, or when nothing was declared yet. `stood_at` is told with what is missing:
    /// what was published since then may be lost to us.
    async fn round(&self, copy: &CatalogCopy, declared: bool, stood_at: Option<Timestamp>) -> Result<()> {
        let topics = copy
            .names()
            .await
            .map_err(|_| Error::unavailable("read which topics there are, to declare them"))?;
        if declared {
            let missing = self.topology.verify(&topics).await?;
            if missing.is_empty() {
                return Ok(());
            }
            self.missing.add(missing.len() as u64, &[]);
            for thing in &missing {
                tracing::error!(
                    name = thing.name,
                    stood_at = stood_at.map(tracing::field::display),
                    "found missing: what was published since it stood may be lost to us"
                );
            }
        }
        self.declare(&topics).await
    }
}
