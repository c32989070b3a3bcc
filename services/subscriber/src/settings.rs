use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings_domain::backoff::Backoff;
use tidings_runtime::consume::ConsumeSettings;

/// Limits and waits of the subscriber.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Messages that the bus may assign to this process at once.
    pub prefetch: usize,
    /// The most messages of one insert.
    pub batch: usize,
    /// Inserts under way at once.
    pub concurrency: usize,
    /// How long a message may wait, under load only, for its batch to fill.
    pub linger_ms: u64,
    /// Failed attempts of one message before it is a dead letter.
    pub attempts: u32,
    /// The wait after a first failed attempt; it doubles from there.
    pub retry_first_ms: u64,
    /// The longest wait between attempts.
    pub retry_most_ms: u64,
    /// The wait before a first probe while nothing can be tried; it doubles from there.
    pub probe_first_ms: u64,
    /// The longest wait between probes.
    pub probe_most_ms: u64,
    /// Days that items and all that is about them are kept.
    pub retention_days: u32,
    /// The most items that one step of retention removes.
    pub retention_batch: u32,
    /// The wait between steps while there is more to remove.
    pub retention_pause_ms: u64,
    /// The wait when there is nothing to remove.
    pub retention_interval_s: u64,
}

impl Default for Settings {
    fn default() -> Self {
        let consume = ConsumeSettings::default();
        Self {
            prefetch: consume.prefetch,
            batch: consume.batch,
            concurrency: consume.concurrency,
            linger_ms: millis(consume.linger),
            attempts: consume.attempts,
            retry_first_ms: millis(consume.backoff.first),
            retry_most_ms: millis(consume.backoff.most),
            probe_first_ms: millis(consume.probe.first),
            probe_most_ms: millis(consume.probe.most),
            retention_days: 30,
            retention_batch: 500,
            retention_pause_ms: 200,
            retention_interval_s: 60,
        }
    }
}

impl Settings {
    pub(crate) fn consume(&self) -> ConsumeSettings {
        ConsumeSettings {
            prefetch: self.prefetch.max(1),
            batch: self.batch.max(1),
            concurrency: self.concurrency.max(1),
            linger: Duration::from_millis(self.linger_ms),
            attempts: self.attempts.max(1),
            backoff: backoff(self.retry_first_ms, self.retry_most_ms),
            probe: self.probe(),
        }
    }

    /// The safety net is empty but for accidents: one call at a time is plenty.
    pub(crate) fn safety_net(&self) -> ConsumeSettings {
        ConsumeSettings { prefetch: 64, batch: 64, concurrency: 1, ..self.consume() }
    }

    pub(crate) fn probe(&self) -> Backoff {
        backoff(self.probe_first_ms, self.probe_most_ms)
    }

    pub(crate) fn retention(&self) -> Duration {
        Duration::from_secs(u64::from(self.retention_days) * 86_400)
    }
}

fn backoff(first_ms: u64, most_ms: u64) -> Backoff {
    Backoff { first: Duration::from_millis(first_ms.max(1)), most: Duration::from_millis(most_ms.max(1)) }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
