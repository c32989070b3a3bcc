//! The wall clock of all services: it follows tokio's, and can be set ahead by weeks at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tidings_domain::{ports::Clock, time::Timestamp};
use tidings_memory::PausedClock;

/// A wall clock. Clones are the same.
#[derive(Clone)]
pub(crate) struct WallClock {
    clock: PausedClock,
    ahead_ms: Arc<AtomicU64>,
}

impl WallClock {
    /// One that says what `clock` says.
    pub(crate) fn new(clock: PausedClock) -> Self {
        Self { clock, ahead_ms: Arc::default() }
    }

    /// Sets it ahead.
    pub(crate) fn set_ahead(&self, by: Duration) {
        self.ahead_ms.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        self.clock.now().plus(Duration::from_millis(self.ahead_ms.load(Ordering::Relaxed)))
    }
}
