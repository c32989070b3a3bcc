//! `Topology`.

use async_trait::async_trait;
use tidings_domain::{
    Result,
    ports::{MissingTopology, Topology},
    topic::TopicName,
};

use crate::{Memory, Part};

/// The name of the notifications topic; no topic of messages can have it before its prefix.
pub(crate) const NOTIFICATIONS: &str = "notifications (ours)";

#[async_trait]
impl Topology for Memory {
    async fn declare(&self, topics: &[TopicName]) -> Result<()> {
        let topics = topics.to_vec();
        self.shared()
            .operate(Part::Bus, move |state, _| {
                state.notifications_declared = true;
                state.bound.insert(NOTIFICATIONS.to_owned());
                for topic in topics {
                    state.bound.insert(topic.as_str().to_owned());
                    state.declared.insert(topic);
                }
                Ok(())
            })
            .await
    }

    async fn verify(&self, topics: &[TopicName]) -> Result<Vec<MissingTopology>> {
        let topics = topics.to_vec();
        self.shared()
            .operate(Part::Bus, move |state, _| {
                let mut missing = Vec::new();
                let mut look = |declared: bool, name: &str| {
                    if !declared {
                        missing.push(MissingTopology { name: format!("topic {name}") });
                    }
                    if !state.bound.contains(name) {
                        missing.push(MissingTopology { name: format!("binding of topic {name}") });
                    }
                };
                look(state.notifications_declared, NOTIFICATIONS);
                for topic in &topics {
                    look(state.declared.contains(topic), topic.as_str());
                }
                Ok(missing)
            })
            .await
    }
}
