use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings_domain::backoff::Backoff;

/// Limits and waits of the cdc-watcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The most changes of one publish.
    pub batch: usize,
    /// Publishes under way at once.
    pub concurrency: usize,
    /// How long a confirmed publish may wait for others before the stream's position is moved; a crash publishes that
    /// much once more.
    pub confirm_linger_ms: u64,
    /// The wait before the first repetition of a failed publish; it doubles from there.
    pub retry_first_ms: u64,
    /// The longest wait between repetitions, and between attempts to open the stream.
    pub retry_most_ms: u64,
    /// How often the stream is looked at again after a gap: it goes on only when a person has mended it.
    pub gap_retry_s: u64,
    /// How often the backlog is counted for metrics.
    pub backlog_interval_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            batch: 256,
            concurrency: 4,
            confirm_linger_ms: 5,
            retry_first_ms: 100,
            retry_most_ms: 10_000,
            gap_retry_s: 30,
            backlog_interval_s: 15,
        }
    }
}

impl Settings {
    pub(crate) fn backoff(&self) -> Backoff {
        let millis = |millis: u64| Duration::from_millis(millis.max(1));
        Backoff { first: millis(self.retry_first_ms), most: millis(self.retry_most_ms) }
    }

    pub(crate) fn confirm_linger(&self) -> Duration {
        Duration::from_millis(self.confirm_linger_ms)
    }

    pub(crate) fn gap_retry(&self) -> Duration {
        Duration::from_secs(self.gap_retry_s.max(1))
    }

    pub(crate) fn backlog_interval(&self) -> Duration {
        Duration::from_secs(self.backlog_interval_s.max(1))
    }
}
