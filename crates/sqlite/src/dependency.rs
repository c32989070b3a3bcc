//! `Dependency`: what the last reads and writes said.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tidings_domain::{
    Error,
    ports::{Dependency, DependencyState},
};

use crate::fault;

/// The state that readiness reads.
#[derive(Debug)]
pub(crate) struct Health {
    state: Mutex<(DependencyState, Side)>,
    /// How many wait for the change stream.
    standing_by: AtomicUsize,
}

/// Which side saw an illness: only the same side can say that it is over, since reads go on when the disk is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Read,
    Write,
    /// Damage: that other pages can still be read and written mends nothing, only a start on another file does.
    Nobody,
}

impl Health {
    pub(crate) fn up() -> Self {
        Self { state: Mutex::new((DependencyState::Up, Side::Read)), standing_by: AtomicUsize::new(0) }
    }

    /// A read or a write went well.
    pub(crate) fn well(&self, side: Side) {
        let mut state = self.lock();
        let may_say_so = state.1 != Side::Nobody && (side == Side::Write || state.1 == Side::Read);
        if state.0 != DependencyState::Up && may_say_so {
            tracing::info!(dependency = "sqlite", "the database answers again");
            state.0 = DependencyState::Up;
        }
    }

    /// A read or a write failed.
    pub(crate) fn failed(&self, side: Side, error: &Error) {
        if !fault::is_illness(error) {
            return;
        }
        let mut state = self.lock();
        if state.0 == DependencyState::Up {
            tracing::error!(dependency = "sqlite", error = %error.chain(), "the database is ill");
        }
        if fault::is_damage(error) {
            *state = (DependencyState::Down(error.chain()), Side::Nobody);
        } else if state.0 == DependencyState::Up || side == Side::Write && state.1 != Side::Nobody {
            *state = (DependencyState::Down(error.chain()), side);
        }
    }

    /// Says *standing by* until the guard is dropped.
    pub(crate) fn stand_by(self: &Arc<Self>) -> StandingBy {
        self.standing_by.fetch_add(1, Ordering::Relaxed);
        StandingBy(Arc::clone(self))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, (DependencyState, Side)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Someone waits for what only one can hold.
pub(crate) struct StandingBy(Arc<Health>);

impl Drop for StandingBy {
    fn drop(&mut self) {
        self.0.standing_by.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Dependency for Health {
    fn name(&self) -> &str {
        "sqlite"
    }

    fn state(&self) -> DependencyState {
        match self.lock().0.clone() {
            DependencyState::Up if self.standing_by.load(Ordering::Relaxed) > 0 => {
                DependencyState::StandingBy
            }
            state => state,
        }
    }
}
