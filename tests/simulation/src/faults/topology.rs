//! `Topology`.

use async_trait::async_trait;
use tidings_domain::{
    Result,
    ports::{MissingTopology, Topology},
    topic::TopicName,
};

use super::Faulty;

#[async_trait]
impl Topology for Faulty<dyn Topology> {
    async fn declare(&self, topics: &[TopicName]) -> Result<()> {
        self.line.call("declare", self.inner.declare(topics)).await
    }

    async fn verify(&self, topics: &[TopicName]) -> Result<Vec<MissingTopology>> {
        self.line.call("verify", self.inner.verify(topics)).await
    }
}
