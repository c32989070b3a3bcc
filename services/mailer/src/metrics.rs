//! The mailer's instruments.

use std::time::Duration;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};
use tidings_domain::{
    dead_letter::DeadLetterSource,
    delivery::{Delivery, Outcome},
    item::Item,
    notification::Notification,
    ports::Queue,
    time::Timestamp,
};
use tidings_runtime::metrics::{DEAD_LETTERS_WRITTEN, REASON, SOURCE, Step, Waits, counter, seconds};

/// Attempts that ended, by outcome.
const ATTEMPTS_ENDED: &str = "tidings.deliveries.ended";
/// Seconds of an attempt, by outcome.
const ATTEMPT_DURATION: &str = "tidings.deliveries.attempt_duration";
/// Deliveries planned.
const PLANNED: &str = "tidings.deliveries.planned";
/// Seconds from a delivery's planning to the mail server's taking it.
const SENT_AFTER: &str = "tidings.deliveries.sent_after";
/// Deliveries to be sent, by state.
pub(crate) const OPEN: &str = "tidings.deliveries.open";
/// Seconds since the delivery that is due longest was due.
pub(crate) const OVERDUE: &str = "tidings.deliveries.overdue";

pub(crate) struct Metrics {
    ended: Counter<u64>,
    attempt_duration: Histogram<f64>,
    planned: Counter<u64>,
    sent_after: Histogram<f64>,
    dead_letters: Counter<u64>,
    waited: Waits,
    all_planned: Waits,
    mailed: Waits,
    labels: [[KeyValue; 1]; 7],
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            ended: counter(meter, ATTEMPTS_ENDED, "attempts of deliveries that ended"),
            attempt_duration: seconds(meter, ATTEMPT_DURATION, "duration of an attempt"),
            planned: counter(meter, PLANNED, "deliveries planned"),
            sent_after: seconds(meter, SENT_AFTER, "time from planning to the mail server's taking it"),
            dead_letters: counter(meter, DEAD_LETTERS_WRITTEN, "dead letters written"),
            waited: Waits::in_queue(meter, Queue::Mail),
            all_planned: Waits::of_step(meter, Step::Planned),
            mailed: Waits::of_step(meter, Step::Mailed),
            labels: OUTCOMES.map(|outcome| [KeyValue::new("outcome", outcome)]),
        }
    }

    pub(crate) fn ended(&self, outcome: &Outcome, took: Duration) {
        let labels = &self.labels[place(outcome)];
        self.ended.add(1, labels);
        self.attempt_duration.record(took.as_secs_f64(), labels);
        // It was written with the outcome, in one transaction.
        if let Outcome::Failed { dead_letter, .. } = outcome {
            let source = KeyValue::new(SOURCE, DeadLetterSource::Deliveries.as_str());
            self.dead_letters.add(1, &[source, KeyValue::new(REASON, dead_letter.reason.clone())]);
        }
    }

    /// An unknown outcome that was found by its lease's end.
    pub(crate) fn found_unknown(&self) {
        self.ended.add(1, &self.labels[UNKNOWN]);
    }

    pub(crate) fn planned(&self, count: usize) {
        self.planned.add(count as u64, &[]);
    }

    /// A notification is handled for the first time now.
    pub(crate) fn taken(&self, notification: &Notification, now: Timestamp) {
        self.waited.ended(notification.published_at, now);
    }

    /// Every mail of an item is planned. Of a replay it says nothing: the message was accepted long before.
    pub(crate) fn all_planned(&self, notification: &Notification, item: Option<&Item>, now: Timestamp) {
        if let Some(item) = item
            && notification.replay.is_none()
        {
            self.all_planned.ended(item.message.accepted_at, now);
        }
    }

    /// The mail server took a mail about a message that was accepted then, if it is about one.
    pub(crate) fn sent(&self, delivery: &Delivery, accepted_at: Option<Timestamp>, now: Timestamp) {
        self.sent_after.record(now.since(delivery.created_at).as_secs_f64(), &[]);
        if let Some(accepted_at) = accepted_at
            && delivery.key.round == 0
        {
            self.mailed.ended(accepted_at, now);
        }
    }
}

const OUTCOMES: [&str; 7] =
    ["sent", "released", "retry", "unknown", "suppressed", "unknown_failed", "failed"];
const UNKNOWN: usize = 3;

/// Where an outcome's word stands among [`OUTCOMES`].
fn place(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Sent { .. } => 0,
        Outcome::Released { .. } => 1,
        Outcome::Retry { .. } => 2,
        Outcome::Unknown { .. } => UNKNOWN,
        Outcome::Suppressed => 4,
        Outcome::Failed { unknown: true, .. } => 5,
        Outcome::Failed { .. } => 6,
    }
}
