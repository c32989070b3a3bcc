//! The mailer's instruments.

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};
use tidings_domain::{dead_letter::DeadLetterSource, delivery::Outcome};
use tidings_runtime::metrics::{DEAD_LETTERS_WRITTEN, REASON, SOURCE, counter, seconds};

/// Attempts that ended, by outcome.
const ATTEMPTS_ENDED: &str = "tidings.deliveries.ended";
/// Deliveries planned.
const PLANNED: &str = "tidings.deliveries.planned";
/// Seconds from a delivery's planning to the mail server's taking it.
const SENT_AFTER: &str = "tidings.deliveries.sent_after";

pub(crate) struct Metrics {
    ended: Counter<u64>,
    planned: Counter<u64>,
    sent_after: Histogram<f64>,
    dead_letters: Counter<u64>,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            ended: counter(meter, ATTEMPTS_ENDED, "attempts of deliveries that ended"),
            planned: counter(meter, PLANNED, "deliveries planned"),
            sent_after: seconds(meter, SENT_AFTER, "time from planning to the mail server's taking it"),
            dead_letters: counter(meter, DEAD_LETTERS_WRITTEN, "dead letters written"),
        }
    }

    pub(crate) fn ended(&self, outcome: &Outcome) {
        self.ended.add(1, &[KeyValue::new("outcome", word(outcome))]);
        // It was written with the outcome, in one transaction.
        if let Outcome::Failed { dead_letter, .. } = outcome {
            let source = KeyValue::new(SOURCE, DeadLetterSource::Deliveries.as_str());
            self.dead_letters.add(1, &[source, KeyValue::new(REASON, dead_letter.reason.clone())]);
        }
    }

    /// An unknown outcome that was found by its lease's end.
    pub(crate) fn found_unknown(&self) {
        self.ended.add(1, &[KeyValue::new("outcome", "unknown")]);
    }

    pub(crate) fn planned(&self, count: usize) {
        self.planned.add(count as u64, &[]);
    }

    pub(crate) fn sent_after(&self, duration: std::time::Duration) {
        self.sent_after.record(duration.as_secs_f64(), &[]);
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Sent { .. } => "sent",
        Outcome::Released { .. } => "released",
        Outcome::Retry { .. } => "retry",
        Outcome::Unknown { .. } => "unknown",
        Outcome::Suppressed => "suppressed",
        Outcome::Failed { unknown: true, .. } => "unknown_failed",
        Outcome::Failed { .. } => "failed",
    }
}
