//! What the limits count.

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Meter},
};
use tidings_runtime::metrics;

/// Calls that the fallback answered, by call.
const FALLBACKS: &str = "tidings.limits.fallbacks";
/// Accepted messages that were not remembered, since too many waited to be.
const ACCEPTED_DROPPED: &str = "tidings.limits.accepted.dropped";
/// The label that names the call.
const CALL: &str = "call";

pub(crate) struct Metrics {
    fallbacks: Counter<u64>,
    accepted_dropped: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            fallbacks: metrics::counter(meter, FALLBACKS, "calls that the process's own limits answered"),
            accepted_dropped: metrics::counter(
                meter,
                ACCEPTED_DROPPED,
                "accepted messages that were not remembered",
            ),
        }
    }

    pub(crate) fn fallback(&self, call: &'static str) {
        self.fallbacks.add(1, &[KeyValue::new(CALL, call)]);
    }

    pub(crate) fn accepted_dropped(&self, count: usize) {
        self.accepted_dropped.add(count as u64, &[]);
    }
}
