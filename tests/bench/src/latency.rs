//! Latencies and their percentiles.

use std::time::Duration;

/// A set of measured durations.
#[derive(Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn push(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The percentile in milliseconds, by nearest rank; NaN of nothing.
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        if self.0.is_empty() {
            return f64::NAN;
        }
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank within the set"
        )]
        let rank = ((percent / 100.0 * self.0.len() as f64).ceil() as usize).clamp(1, self.0.len());
        sorted[rank - 1].as_secs_f64() * 1e3
    }
}

impl std::fmt::Display for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:>7.2} ms   p99 {:>7.2} ms", self.percentile(50.0), self.percentile(99.0))
    }
}
