//! The consume loop: takes from a queue, calls a [`Handler`], and turns its verdicts into settlements, retries, pauses
//! and dead letters. Everything that keeps promises 4, 5 and 8 is here, nothing of it in handlers.

mod attempts;
mod burial;
mod call;
mod entry;
mod holding;
mod renewal;
mod session;
mod settings;
mod settlements;

use std::sync::Arc;

use tidings_domain::{
    Result,
    dead_letter::DeadLetterSource,
    ports::{Bus, Clock, DeadLetters, Entropy, Queue},
};

pub(crate) use entry::{context, set_context};
pub use settings::ConsumeSettings;

use crate::{
    handler::Handler, health::Part, metrics::ConsumeMetrics, shutdown::Shutdown, telemetry::Telemetry,
};
use session::{End, Session};

/// One consumer of one queue with its handler.
pub struct ConsumeLoop {
    /// Its name in logs.
    pub name: &'static str,
    /// Where the queue is.
    pub bus: Arc<dyn Bus>,
    /// Which queue.
    pub queue: Queue,
    /// What its dead letters say of where they came from.
    pub source: DeadLetterSource,
    /// The work.
    pub handler: Arc<dyn Handler>,
    /// Where that goes which cannot go on.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The time that dead letters are written.
    pub clock: Arc<dyn Clock>,
    /// Jitter and ids.
    pub entropy: Arc<dyn Entropy>,
    /// Limits and waits.
    pub settings: ConsumeSettings,
    /// What readiness shows.
    pub part: Part,
    /// Spans and metrics.
    pub telemetry: Telemetry,
}

impl ConsumeLoop {
    /// Takes and handles until `shutdown`: Ok after that. While the bus or what the handler needs is away it waits with
    /// back-off, without a limit in number, and its part says what for.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        let metrics = ConsumeMetrics::new(&self.telemetry, self.queue.as_str(), self.source.as_str());
        let destination = self.telemetry.queue_name(self.queue);
        let mut failures = 0_u32;
        while !shutdown.is_requested() {
            let Some(opened) = shutdown.cuts(self.bus.consume(self.queue, self.settings.prefetch)).await
            else {
                break;
            };
            let end = match opened {
                Ok(consumer) => {
                    self.part.up();
                    let mut session = Session::new(&self, &metrics, &destination, consumer);
                    let end = session.run(&shutdown).await;
                    if session.progress {
                        failures = 0;
                    }
                    end
                }
                Err(error) => End::Lost(error.chain()),
            };
            failures = failures.saturating_add(1);
            match end {
                End::Stopped => break,
                End::Paused(reason) => {
                    metrics.paused();
                    // Its part has said so, once.
                    tracing::debug!(name = self.name, reason, "nothing can be tried: paused");
                    failures = self.probe(reason, failures, &shutdown).await;
                }
                End::Lost(reason) => {
                    tracing::debug!(name = self.name, reason, "the queue is away");
                    self.part.waiting(format!("the queue {destination}: {reason}"));
                    shutdown.sleep(self.settings.probe.wait(failures, &*self.entropy)).await;
                }
            }
        }
        tracing::debug!(name = self.name, "stopped");
        Ok(())
    }

    /// Returns when the handler's probe says that work can be tried, or at shutdown. The waits go on from those of
    /// outages before which nothing was dealt with, so that a probe which is wrong makes no busy loop.
    async fn probe(&self, mut reason: String, mut failures: u32, shutdown: &Shutdown) -> u32 {
        loop {
            self.part.waiting(reason.as_str());
            if !shutdown.sleep(self.settings.probe.wait(failures, &*self.entropy)).await {
                return failures;
            }
            match shutdown.cuts(self.handler.probe()).await {
                Some(Ok(())) | None => return failures,
                Some(Err(error)) => {
                    tracing::debug!(name = self.name, error = error.chain(), "still nothing can be tried");
                    reason = error.chain();
                }
            }
            failures = failures.saturating_add(1);
        }
    }
}
