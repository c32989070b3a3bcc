//! The clock and the chance that adapters are given here.

use std::sync::atomic::{AtomicU64, Ordering};

use tidings_domain::{
    ports::{Clock, Entropy},
    time::Timestamp,
};

/// The machine's clock.
pub(crate) struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(0))
    }
}

/// Ids that differ are all that a floor needs of chance.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Entropy for Counter {
    fn fill(&self, bytes: &mut [u8]) {
        let number = self.0.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        for (at, byte) in bytes.iter_mut().rev().enumerate() {
            *byte = number.iter().rev().nth(at % 8).copied().unwrap_or(0);
        }
    }
}
