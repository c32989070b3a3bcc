//! What readiness shows, as gauges: read when metrics are, never kept.

use opentelemetry::{
    KeyValue,
    metrics::{AsyncInstrument, Meter},
};

use super::{Health, PartState};
use crate::metrics::{DEPENDENCY, DEPENDENCY_STATE, PART, PART_STATE};

impl Health {
    /// Shows each part and dependency as a gauge of `meter`: 0 it works or stands by, 1 worse than it should, 2 it waits
    /// or is away, 3 it has stopped and a person has to act. The reasons are readiness's.
    pub fn expose(&self, meter: &Meter) {
        let (parts, dependencies) = (self.clone(), self.clone());
        meter
            .u64_observable_gauge(PART_STATE)
            .with_description("0 works, 1 degraded, 2 waits, 3 stopped")
            .with_callback(move |gauge| observe(gauge, PART, parts.report().parts))
            .build();
        meter
            .u64_observable_gauge(DEPENDENCY_STATE)
            .with_description("0 works, 1 degraded, 2 away, 3 stopped")
            .with_callback(move |gauge| observe(gauge, DEPENDENCY, dependencies.report().dependencies))
            .build();
    }
}

fn observe(
    gauge: &dyn AsyncInstrument<u64>,
    label: &'static str,
    states: impl IntoIterator<Item = (String, PartState)>,
) {
    for (name, state) in states {
        gauge.observe(value(&state), &[KeyValue::new(label, name)]);
    }
}

fn value(state: &PartState) -> u64 {
    match state {
        PartState::Up | PartState::StandingBy => 0,
        PartState::Degraded(_) => 1,
        PartState::Waiting(_) => 2,
        PartState::Stopped(_) => 3,
    }
}
