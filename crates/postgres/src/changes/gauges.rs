//! Metrics of the slot.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use opentelemetry::{
    KeyValue,
    metrics::{Counter, Gauge, Meter},
};
use tidings_runtime::metrics;
use tokio::time::Instant;

/// Heartbeats that are waited for; the oldest tells how far behind the stream is, however many there are.
const MOST_HEARTBEATS: usize = 10_000;

/// The instruments, and the heartbeats that are under way.
pub(crate) struct Gauges {
    lag_bytes: Gauge<u64>,
    retained_bytes: Gauge<u64>,
    safe_bytes: Gauge<u64>,
    status: Gauge<u64>,
    lag_seconds: Gauge<f64>,
    opened: Counter<u64>,
    ignored: Counter<u64>,
    beats: Mutex<Beats>,
}

#[derive(Default)]
struct Beats {
    /// What the contents of this session's begin with.
    session: String,
    /// Number and time of those that did not come back yet.
    under_way: VecDeque<(u64, Instant)>,
    next: u64,
}

/// What the server says of the slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Bytes of log behind the confirmed position.
    pub(crate) lag_bytes: Option<u64>,
    /// Bytes of log that the slot keeps.
    pub(crate) retained_bytes: Option<u64>,
    /// Bytes that may still be written before the slot is in danger; absent where there is no limit.
    pub(crate) safe_bytes: Option<u64>,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub(crate) status: Option<String>,
}

impl Gauges {
    pub(crate) fn new(meter: &Meter) -> Self {
        let bytes =
            |name, description| meter.u64_gauge(name).with_unit("By").with_description(description).build();
        Self {
            lag_bytes: bytes(metrics::SLOT_LAG, "log behind the slot's confirmed position"),
            retained_bytes: bytes(metrics::SLOT_RETAINED, "log that the slot keeps"),
            safe_bytes: bytes(metrics::SLOT_SAFE, "log that may be written before the slot is in danger"),
            status: metrics::gauge(
                meter,
                metrics::SLOT_STATUS,
                "0 reserved, 1 extended, 2 unreserved, 3 lost",
            ),
            lag_seconds: meter
                .f64_gauge(metrics::SLOT_HEARTBEAT_AGE)
                .with_unit("s")
                .with_description("age of the oldest heartbeat that has not come back through the slot")
                .build(),
            opened: metrics::counter(meter, metrics::SLOT_OPENED, "times that the slot was opened"),
            ignored: metrics::counter(meter, metrics::SLOT_IGNORED, "what came beside new items"),
            beats: Mutex::default(),
        }
    }

    /// A session was opened, whose heartbeats begin with this.
    pub(crate) fn opened(&self, session: String) {
        let mut beats = self.beats();
        beats.under_way.clear();
        beats.session = session;
        self.opened.add(1, &[]);
    }

    pub(crate) fn sample(&self, sample: &Sample) {
        let pairs = [
            (&self.lag_bytes, sample.lag_bytes),
            (&self.retained_bytes, sample.retained_bytes),
            (&self.safe_bytes, sample.safe_bytes),
            (&self.status, sample.status.as_deref().map(number)),
        ];
        for (gauge, value) in pairs {
            if let Some(value) = value {
                gauge.record(value, &[]);
            }
        }
    }

    pub(crate) fn ignored(&self, ignored: &mut BTreeMap<&'static str, u64>) {
        while let Some((kind, count)) = ignored.pop_first() {
            self.ignored.add(count, &[KeyValue::new(metrics::KIND, kind)]);
        }
    }

    /// A heartbeat is about to be sent: its number, and what it says.
    pub(crate) fn beat(&self) -> (u64, String) {
        let mut beats = self.beats();
        beats.next += 1;
        let number = beats.next;
        if beats.under_way.len() < MOST_HEARTBEATS {
            beats.under_way.push_back((number, Instant::now()));
        }
        if let Some((_, sent_at)) = beats.under_way.front() {
            self.lag_seconds.record(sent_at.elapsed().as_secs_f64(), &[]);
        }
        (number, format!("{}{number}", beats.session))
    }

    /// It was not sent.
    pub(crate) fn missed(&self, number: u64) {
        self.beats().under_way.retain(|(beat, _)| *beat != number);
    }

    /// Some came back; those of others mean nothing to us.
    pub(crate) fn heartbeats(&self, contents: &mut Vec<Bytes>) {
        for content in contents.drain(..) {
            let mut beats = self.beats();
            let ours = std::str::from_utf8(&content).ok().and_then(|text| text.strip_prefix(&*beats.session));
            let Some(number) = ours.and_then(|text| text.parse::<u64>().ok()) else { continue };
            let mut age = None::<Duration>;
            while let Some((_, sent_at)) = beats.under_way.pop_front_if(|(beat, _)| *beat <= number) {
                age = Some(sent_at.elapsed());
            }
            if let Some(age) = age {
                self.lag_seconds.record(age.as_secs_f64(), &[]);
            }
        }
    }

    fn beats(&self) -> std::sync::MutexGuard<'_, Beats> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn number(status: &str) -> u64 {
    match status {
        "reserved" => 0,
        "extended" => 1,
        "unreserved" => 2,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};

    use super::*;

    fn under_way(gauges: &Gauges) -> Vec<u64> {
        gauges.beats().under_way.iter().map(|(number, _)| *number).collect()
    }

    #[tokio::test]
    async fn a_heartbeat_that_comes_back_covers_those_before_it_and_those_of_others_none() {
        let gauges = Gauges::new(&NoopMeterProvider::new().meter("test"));
        gauges.opened("mine ".to_owned());
        let said: Vec<_> = (0..3).map(|_| gauges.beat().1).collect();
        assert_eq!(said, ["mine 1", "mine 2", "mine 3"]);
        for foreign in ["3", "other 3", "", "mine x"] {
            gauges.heartbeats(&mut vec![Bytes::from_static(foreign.as_bytes())]);
        }
        gauges.heartbeats(&mut vec![Bytes::from_static(b"\xff")]);
        assert_eq!(under_way(&gauges), [1, 2, 3]);
        gauges.heartbeats(&mut vec![Bytes::from("mine 2")]);
        assert_eq!(under_way(&gauges), [3]);
        gauges.missed(3);
        assert!(under_way(&gauges).is_empty());
        gauges.opened("again ".to_owned());
        assert_eq!(gauges.beat(), (4, "again 4".to_owned()));
    }
}
