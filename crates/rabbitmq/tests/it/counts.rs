//! What was counted.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, InstrumentBuilder, InstrumentProvider, Meter, SyncInstrument},
};

/// Sums of counters, each by its name and the values of its labels.
#[derive(Clone, Default)]
pub(crate) struct Counts(Arc<Mutex<BTreeMap<String, u64>>>);

impl Counts {
    pub(crate) fn meter(&self) -> Meter {
        Meter::new(Arc::new(self.clone()))
    }

    pub(crate) fn of(&self, name: &str) -> u64 {
        self.0.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl InstrumentProvider for Counts {
    fn u64_counter(&self, builder: InstrumentBuilder<'_, Counter<u64>>) -> Counter<u64> {
        Counter::new(Arc::new(Sum { name: builder.name.into_owned(), counts: self.clone() }))
    }
}

struct Sum {
    name: String,
    counts: Counts,
}

impl SyncInstrument<u64> for Sum {
    fn measure(&self, measurement: u64, attributes: &[KeyValue]) {
        let mut name = self.name.clone();
        for attribute in attributes {
            name.push('/');
            name.push_str(&attribute.value.as_str());
        }
        *self.counts.0.lock().unwrap().entry(name).or_default() += measurement;
    }
}
