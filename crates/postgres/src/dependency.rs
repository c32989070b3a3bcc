//! `Dependency`: what the last statements said.

use std::sync::{Mutex, PoisonError};

use tidings_domain::{
    Error,
    ports::{Dependency, DependencyState},
};

use crate::fault;

/// The state that readiness reads.
#[derive(Debug)]
pub(crate) struct Health {
    name: &'static str,
    state: Mutex<DependencyState>,
}

impl Health {
    /// Nothing was asked yet: `name` is taken to be up until it says otherwise.
    pub(crate) fn up(name: &'static str) -> Self {
        Self { name, state: Mutex::new(DependencyState::Up) }
    }

    /// A statement was answered.
    pub(crate) fn well(&self) {
        let mut state = self.lock();
        if *state != DependencyState::Up {
            tracing::info!(dependency = self.name, "the server answers again");
            *state = DependencyState::Up;
        }
    }

    /// A statement failed, or there was no session for it.
    pub(crate) fn failed(&self, error: &Error) {
        if !fault::is_illness(error) {
            return;
        }
        let mut state = self.lock();
        if *state == DependencyState::Up {
            tracing::error!(dependency = self.name, error = %error.chain(), "the server is ill");
        }
        *state = DependencyState::Down(error.chain());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, DependencyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dependency for Health {
    fn name(&self) -> &str {
        self.name
    }

    fn state(&self) -> DependencyState {
        self.lock().clone()
    }
}
