//! `Catalog`.

use async_trait::async_trait;
use tidings_domain::{
    Result,
    api_key::{ApiKey, KeyHash},
    id::ApiKeyId,
    ports::{Catalog, Installation, RemovedTopic},
    topic::{Topic, TopicName},
};

use super::Faulty;

#[async_trait]
impl Catalog for Faulty<dyn Catalog> {
    async fn installation(&self) -> Result<Option<Installation>> {
        self.line.call("read installation", self.inner.installation()).await
    }

    async fn put_topic(&self, topic: &Topic) -> Result<(Topic, bool)> {
        self.line.call("put topic", self.inner.put_topic(topic)).await
    }

    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>> {
        self.line.call("get topic", self.inner.topic(name)).await
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        self.line.call("list topics", self.inner.topics()).await
    }

    async fn remove_topic(&self, name: &TopicName) -> Result<RemovedTopic> {
        self.line.call("remove topic", self.inner.remove_topic(name)).await
    }

    async fn put_key(&self, key: &ApiKey) -> Result<()> {
        self.line.call("put key", self.inner.put_key(key)).await
    }

    async fn key(&self, hash: &KeyHash) -> Result<Option<ApiKey>> {
        self.line.call("get key", self.inner.key(hash)).await
    }

    async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.line.call("list keys", self.inner.keys()).await
    }

    async fn remove_key(&self, id: ApiKeyId) -> Result<bool> {
        self.line.call("remove key", self.inner.remove_key(id)).await
    }
}
