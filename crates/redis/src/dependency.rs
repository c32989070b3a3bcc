//! `Dependency`.

use tidings_domain::ports::{Dependency, DependencyState};

use crate::link::Link;

/// What an outage means for those who rely on the limits.
pub(crate) const MEANWHILE: &str = "limits are per process meanwhile: n apis, n times the limit";

impl Dependency for Link {
    fn name(&self) -> &str {
        "redis"
    }

    fn state(&self) -> DependencyState {
        match self.trouble() {
            None => DependencyState::Up,
            Some(reason) => {
                DependencyState::Degraded(format!("redis at {}: {reason}; {MEANWHILE}", self.server()))
            }
        }
    }
}
