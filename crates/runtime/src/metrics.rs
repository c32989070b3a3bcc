//! The names of our metrics, their labels, and the instruments of the loops, in one place.

use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Histogram, Meter},
};
use tidings_domain::{ports::Queue, time::Timestamp};

use crate::{
    conventions::{self, Operation},
    telemetry::Telemetry,
};

/// Messages that a loop has dealt with, by queue and verdict.
pub const MESSAGES_HANDLED: &str = "tidings.messages.handled";
/// Attempts that failed and are tried again, by queue.
pub const MESSAGES_RETRIED: &str = "tidings.messages.retried";
/// Leases that ran out or were taken over while we held them, by queue.
pub const LEASES_LOST: &str = "tidings.leases.lost";
/// Settlements that failed otherwise, by queue: their messages come again.
pub const SETTLE_FAILURES: &str = "tidings.settle.failures";
/// Times that a loop stopped taking because nothing could be tried, by queue.
pub const PAUSES: &str = "tidings.pauses";
/// Dead letters written, by source and reason.
pub const DEAD_LETTERS_WRITTEN: &str = "tidings.dead_letters.written";
/// Dead letters taken up again, by source and verdict.
pub const DEAD_LETTERS_REDRIVEN: &str = "tidings.dead_letters.redriven";
/// Seconds of a request, by the conventions.
pub const REQUEST_DURATION: &str = "http.server.request.duration";
/// Seconds of a handler call, by queue.
pub const PROCESS_DURATION: &str = "messaging.process.duration";
/// Seconds of one call of the bus, by operation.
pub const OPERATION_DURATION: &str = "messaging.client.operation.duration";
/// Changes published, by destination.
pub const CHANGES_PUBLISHED: &str = "tidings.changes.published";
/// Publishes that failed and are made again, by kind of error.
pub const CHANGES_REPUBLISHED: &str = "tidings.changes.republished";
/// Seconds from a row's writing to its confirmed publish.
pub const CHANGES_LAG: &str = "tidings.changes.lag";
/// Changes not yet confirmed.
pub const CHANGES_BACKLOG: &str = "tidings.changes.backlog";
/// 1 while the table stream has a gap, else 0.
pub const CHANGES_GAP: &str = "tidings.changes.gap";
/// Bytes of the server's log behind the slot's confirmed position.
pub const SLOT_LAG: &str = "tidings.slot.lag";
/// Bytes of log that the slot makes the server keep.
pub const SLOT_RETAINED: &str = "tidings.slot.retained";
/// Bytes of log that may still be written before the slot is in danger.
pub const SLOT_SAFE: &str = "tidings.slot.safe";
/// 0 reserved, 1 extended, 2 unreserved, 3 lost.
pub const SLOT_STATUS: &str = "tidings.slot.status";
/// Seconds since the oldest heartbeat was written that has not come back through the slot.
pub const SLOT_HEARTBEAT_AGE: &str = "tidings.slot.heartbeat_age";
/// Times that the slot was opened: all but the first are reconnects or takeovers.
pub const SLOT_OPENED: &str = "tidings.slot.opened";
/// What came through the slot beside new items, by kind.
pub const SLOT_IGNORED: &str = "tidings.slot.ignored";
/// Items removed past retention.
pub const RETENTION_REMOVED: &str = "tidings.retention.removed";
/// Items past retention of which something is open.
pub const RETENTION_OPEN: &str = "tidings.retention.open";

/// Seconds from a message's acceptance to a later step of it, by step.
pub const REACHED_AFTER: &str = "tidings.messages.reached_after";
/// Seconds from a message's publish to its handling, by queue.
pub const WAITED: &str = "tidings.messages.waited";
/// How a dependency does, as readiness shows it.
pub const DEPENDENCY_STATE: &str = "tidings.dependency.state";
/// How a part of the process does, as readiness shows it.
pub const PART_STATE: &str = "tidings.part.state";

/// The label that names a queue.
pub const QUEUE: &str = "queue";
/// The label that names what came of something.
pub const VERDICT: &str = "verdict";
/// The label that names where dead letters come from.
pub const SOURCE: &str = "source";
/// The label that names why.
pub const REASON: &str = "reason";
/// The label that names the kind of an error.
pub const KIND: &str = "kind";

/// The label that names a step of a message's way.
pub const STEP: &str = "step";
/// The label that names a dependency.
pub const DEPENDENCY: &str = "dependency";
/// The label that names a part of the process.
pub const PART: &str = "part";

/// The bounds of duration histograms, in seconds.
pub const DURATION_BOUNDS: [f64; 14] =
    [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// The bounds of histograms of what may wait for long, in seconds: an outage lasts hours.
pub const WAIT_BOUNDS: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 300.0, 1800.0, 7200.0];

/// A step of a message's way after it was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Its row is durable.
    Stored,
    /// The watcher has read its row from the table stream.
    Captured,
    /// Its notification is confirmed by the bus.
    Published,
    /// A delivery is planned for each recipient.
    Planned,
    /// The mail server took one of its mails.
    Mailed,
}

impl Step {
    fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Captured => "captured",
            Self::Published => "published",
            Self::Planned => "planned",
            Self::Mailed => "mailed",
        }
    }
}

/// How long things waited, under one label that is made once.
#[derive(Clone)]
pub struct Waits {
    seconds: Histogram<f64>,
    label: [KeyValue; 1],
}

impl Waits {
    /// From a message's acceptance, as its record has it, to `step`.
    pub fn of_step(meter: &Meter, step: Step) -> Self {
        let description = "from a message's acceptance to a later step";
        Self::new(meter, REACHED_AFTER, description, KeyValue::new(STEP, step.as_str()))
    }

    /// From a message's publish to the handling of what `queue` handed out.
    pub fn in_queue(meter: &Meter, queue: Queue) -> Self {
        let description = "from a message's publish to its handling";
        Self::new(meter, WAITED, description, KeyValue::new(QUEUE, queue.as_str()))
    }

    fn new(meter: &Meter, name: &'static str, description: &'static str, label: KeyValue) -> Self {
        let seconds = meter.f64_histogram(name).with_unit("s").with_description(description);
        Self { seconds: seconds.with_boundaries(WAIT_BOUNDS.to_vec()).build(), label: [label] }
    }

    /// One has waited from `since` to `until`.
    pub fn ended(&self, since: Timestamp, until: Timestamp) {
        self.seconds.record(until.since(since).as_secs_f64(), &self.label);
    }
}

/// The instruments of a consume loop, with the labels of its queue.
#[derive(Clone)]
pub(crate) struct ConsumeMetrics {
    handled: Counter<u64>,
    retried: Counter<u64>,
    leases_lost: Counter<u64>,
    settle_failures: Counter<u64>,
    pauses: Counter<u64>,
    dead_letters: Counter<u64>,
    duration: Histogram<f64>,
    call: [KeyValue; 3],
    queue: [KeyValue; 1],
    done: [KeyValue; 2],
    dead: [KeyValue; 2],
    released: [KeyValue; 2],
    source: KeyValue,
}

impl ConsumeMetrics {
    pub(crate) fn new(telemetry: &Telemetry, queue: &'static str, source: &'static str) -> Self {
        let meter = &telemetry.meter;
        let queue = KeyValue::new(QUEUE, queue);
        let [system, name] = operation(telemetry, Operation::Process);
        let with = |verdict| [queue.clone(), KeyValue::new(VERDICT, verdict)];
        Self {
            handled: counter(meter, MESSAGES_HANDLED, "messages dealt with"),
            retried: counter(meter, MESSAGES_RETRIED, "failed attempts that are made again"),
            leases_lost: counter(meter, LEASES_LOST, "leases lost while held"),
            settle_failures: counter(meter, SETTLE_FAILURES, "settlements that failed"),
            pauses: counter(meter, PAUSES, "times that nothing could be tried"),
            dead_letters: counter(meter, DEAD_LETTERS_WRITTEN, "dead letters written"),
            duration: seconds(meter, PROCESS_DURATION, "duration of a handler call"),
            done: with("done"),
            dead: with("dead_letter"),
            released: with("released"),
            source: KeyValue::new(SOURCE, source),
            call: [system, name, queue.clone()],
            queue: [queue],
        }
    }

    pub(crate) fn done(&self, count: u64) {
        add(&self.handled, count, &self.done);
    }

    pub(crate) fn released(&self, count: u64) {
        add(&self.handled, count, &self.released);
    }

    pub(crate) fn dead_letter(&self, reason: &str) {
        self.handled.add(1, &self.dead);
        self.dead_letters.add(1, &[self.source.clone(), KeyValue::new(REASON, reason.to_owned())]);
    }

    pub(crate) fn retried(&self, count: u64) {
        add(&self.retried, count, &self.queue);
    }

    pub(crate) fn leases_lost(&self, count: u64) {
        add(&self.leases_lost, count, &self.queue);
    }

    pub(crate) fn settle_failures(&self, count: u64) {
        add(&self.settle_failures, count, &self.queue);
    }

    pub(crate) fn paused(&self) {
        self.pauses.add(1, &self.queue);
    }

    pub(crate) fn call_took(&self, duration: std::time::Duration) {
        self.duration.record(duration.as_secs_f64(), &self.call);
    }
}

/// How long publishes take, by the conventions.
pub struct PublishDuration {
    seconds: Histogram<f64>,
    labels: [KeyValue; 2],
}

impl PublishDuration {
    /// Of one service's publishes.
    pub fn new(telemetry: &Telemetry) -> Self {
        let seconds = seconds(&telemetry.meter, OPERATION_DURATION, "duration of a publish");
        Self { seconds, labels: operation(telemetry, Operation::Publish) }
    }

    /// One call of the bus was answered after this time, for all of its messages.
    pub fn took(&self, duration: std::time::Duration) {
        self.seconds.record(duration.as_secs_f64(), &self.labels);
    }
}

/// What the conventions require of every metric of messaging.
fn operation(telemetry: &Telemetry, operation: Operation) -> [KeyValue; 2] {
    [
        KeyValue::new(conventions::MESSAGING_SYSTEM, Arc::clone(telemetry.system())),
        KeyValue::new(conventions::MESSAGING_OPERATION_NAME, operation.name()),
    ]
}

fn add(counter: &Counter<u64>, count: u64, labels: &[KeyValue]) {
    if count > 0 {
        counter.add(count, labels);
    }
}

/// A counter of ours.
pub fn counter(meter: &Meter, name: &'static str, description: &'static str) -> Counter<u64> {
    meter.u64_counter(name).with_description(description).build()
}

/// A gauge of ours.
pub fn gauge(meter: &Meter, name: &'static str, description: &'static str) -> Gauge<u64> {
    meter.u64_gauge(name).with_description(description).build()
}

/// A histogram of seconds with [`DURATION_BOUNDS`].
pub fn seconds(meter: &Meter, name: &'static str, description: &'static str) -> Histogram<f64> {
    meter
        .f64_histogram(name)
        .with_unit("s")
        .with_description(description)
        .with_boundaries(DURATION_BOUNDS.to_vec())
        .build()
}
