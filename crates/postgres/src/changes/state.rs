//! `Dependency`: what the table stream last saw.

use std::sync::{Mutex, PoisonError};

use tidings_domain::ports::{Dependency, DependencyState};

/// The state that readiness reads.
#[derive(Debug)]
pub(crate) struct StreamHealth(Mutex<DependencyState>);

impl StreamHealth {
    /// Nothing was tried yet.
    pub(crate) fn new() -> Self {
        Self(Mutex::new(DependencyState::Up))
    }

    /// Says how it is; what is new goes to the log.
    pub(crate) fn set(&self, state: DependencyState) {
        let mut now = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == state {
            return;
        }
        match &state {
            DependencyState::Up => tracing::info!(dependency = "replication", "the slot is read"),
            DependencyState::StandingBy => {
                tracing::info!(dependency = "replication", "another reads the slot: standing by");
            }
            DependencyState::Degraded(reason) => {
                tracing::warn!(dependency = "replication", reason, "the slot is read, not all is well");
            }
            DependencyState::Down(reason) => {
                tracing::warn!(dependency = "replication", reason, "the slot is not read");
            }
        }
        *now = state;
    }
}

impl Dependency for StreamHealth {
    fn name(&self) -> &str {
        "replication"
    }

    fn state(&self) -> DependencyState {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
