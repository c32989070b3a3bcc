use async_trait::async_trait;

use crate::{Result, topic::TopicName};

/// Something that should stand and does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingTopology {
    /// What: an exchange, queue, topic or binding with its full name.
    pub name: String,
}

/// Setting up topics, queues and bindings.
#[async_trait]
pub trait Topology: Send + Sync {
    /// Makes stand: the notifications topic, all queues with their safety nets, each of `topics`, and their bindings.
    /// Idempotent. *Conflict*: something of that name stands with other properties; the context names the difference.
    async fn declare(&self, topics: &[TopicName]) -> Result<()>;

    /// What of the same is missing. Creates nothing.
    async fn verify(&self, topics: &[TopicName]) -> Result<Vec<MissingTopology>>;
}
