//! `Dependency`: what was last seen of the broker.

use std::sync::Arc;

use tidings_domain::ports::{Dependency, DependencyState};

use crate::{
    link::{Condition, Link},
    topology::RabbitTopology,
};

/// The port.
pub(crate) struct RabbitDependency {
    pub(crate) publishing: Arc<Link>,
    pub(crate) consuming: Arc<Link>,
    pub(crate) nets: Arc<Link>,
    pub(crate) topology: Arc<RabbitTopology>,
}

impl Dependency for RabbitDependency {
    fn name(&self) -> &str {
        "rabbitmq"
    }

    fn state(&self) -> DependencyState {
        for link in [&self.consuming, &self.publishing] {
            match link.condition() {
                Condition::Down(reason) => return DependencyState::Down(reason),
                Condition::Blocked(reason) => {
                    return DependencyState::Down(format!("the broker takes no publish now: {reason}"));
                }
                Condition::Unused | Condition::Up => {}
            }
        }
        if let Condition::Down(reason) = self.nets.condition() {
            return DependencyState::Degraded(format!("the safety nets cannot be drained: {reason}"));
        }
        match &self.topology.management {
            Some(management) if management.is_away() => DependencyState::Degraded(
                "its management API does not answer: bindings cannot be seen".to_owned(),
            ),
            _ => DependencyState::Up,
        }
    }
}
