//! What is counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Meter, UpDownCounter},
};
use tidings_domain::{ErrorKind, ports::Queue};
use tidings_runtime::metrics;

/// Publishes answered, by outcome: `ok` or the kind of error. *Misconfigured* are those that the broker returned.
pub(crate) const PUBLISHES: &str = "tidings.rabbitmq.publishes";
/// Publishes sent and not yet confirmed.
pub(crate) const UNCONFIRMED: &str = "tidings.rabbitmq.unconfirmed";
/// Connections made, by role; all but the first of each are reconnects.
pub(crate) const CONNECTIONS: &str = "tidings.rabbitmq.connections";
/// Frames that acknowledge, each of one message or of many.
pub(crate) const ACKNOWLEDGEMENTS: &str = "tidings.rabbitmq.acknowledgements";
/// What the keeper found missing and made again; the api, which looks after its topics itself, counts by the same name.
pub(crate) const MISSING: &str = "tidings.topology.missing";
/// Messages ready in a queue that is consumed here.
pub(crate) const READY: &str = "tidings.rabbitmq.queue.ready";

/// The instruments.
#[derive(Clone)]
pub(crate) struct Metrics(Arc<Instruments>);

struct Instruments {
    publishes: Counter<u64>,
    unconfirmed: UpDownCounter<i64>,
    connections: Counter<u64>,
    acknowledgements: Counter<u64>,
    missing: Counter<u64>,
    ready: Gauge<u64>,
    ok: [KeyValue; 1],
    epoch: AtomicU64,
}

impl Metrics {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self(Arc::new(Instruments {
            publishes: metrics::counter(meter, PUBLISHES, "publishes answered, by outcome"),
            unconfirmed: meter
                .i64_up_down_counter(UNCONFIRMED)
                .with_description("publishes sent and not yet confirmed")
                .build(),
            connections: metrics::counter(meter, CONNECTIONS, "connections made to the broker"),
            acknowledgements: metrics::counter(meter, ACKNOWLEDGEMENTS, "frames that acknowledge messages"),
            missing: metrics::counter(
                meter,
                MISSING,
                "Topics, queues and bindings that were found missing and made again",
            ),
            ready: metrics::gauge(meter, READY, "messages ready in a queue"),
            ok: [KeyValue::new(metrics::KIND, "ok")],
            epoch: AtomicU64::new(0),
        }))
    }

    /// Counts a connection; answers its number.
    pub(crate) fn connected(&self, role: &'static str) -> u64 {
        self.0.connections.add(1, &[KeyValue::new("role", role)]);
        self.0.epoch.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn confirmed(&self, count: usize) {
        self.0.publishes.add(count as u64, &self.0.ok);
    }

    pub(crate) fn failed(&self, kind: ErrorKind) {
        self.0.publishes.add(1, &[KeyValue::new(metrics::KIND, kind.as_str())]);
    }

    pub(crate) fn unconfirmed(&self, change: i64) {
        self.0.unconfirmed.add(change, &[]);
    }

    pub(crate) fn acknowledged(&self, frames: usize) {
        self.0.acknowledgements.add(frames as u64, &[]);
    }

    pub(crate) fn missing(&self, things: usize) {
        self.0.missing.add(things as u64, &[]);
    }

    pub(crate) fn ready(&self, queue: Queue, messages: u32) {
        self.0.ready.record(u64::from(messages), &[KeyValue::new(metrics::QUEUE, queue.as_str())]);
    }
}
