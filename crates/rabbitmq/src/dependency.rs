//! `Dependency`: what was last seen of the broker.

use std::sync::Arc;

use tidings_domain::ports::{Dependency, DependencyState};

use crate::{
    link::{Condition, Link},
    topology::RabbitTopology,
};

/// What cannot be done without the management API.
const BLIND: &str = "RABBITMQ_MANAGEMENT_URL is not set, so bindings cannot be seen: one of ours that is taken away while a queue \
                     of another party stays bound is bound again within 5 s, and neither counted nor told";

/// The same where operators make exchanges and queues.
const BLIND_AND_STILL: &str = "RABBITMQ_MANAGEMENT_URL is not set, so bindings cannot be seen: with topology = verify one of ours \
                               that is taken away while a queue of another party stays bound is neither told nor restored";

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

    fn note(&self) -> Option<&str> {
        match (&self.topology.management, self.topology.declares) {
            (Some(_), _) => None,
            (None, true) => Some(BLIND),
            (None, false) => Some(BLIND_AND_STILL),
        }
    }
}
