use async_trait::async_trait;

use crate::{
    Result,
    api_key::{ApiKey, KeyHash},
    id::ApiKeyId,
    token::Secret,
    topic::{Topic, TopicName},
};

/// The version that this program provisions and knows.
pub const INSTALLATION_VERSION: u32 = 1;

/// What provisioning wrote, last of all. Every service takes nothing before it has read it.
#[derive(Clone, Debug)]
pub struct Installation {
    /// The version that was provisioned; a newer one than the program's own stops the program.
    pub version: u32,
    /// What tokens are signed with.
    pub secret: Secret,
}

/// What removing a topic comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemovedTopic {
    /// The row is gone; the exchange stays.
    Removed,
    /// There was none.
    NotFound,
    /// Somebody is subscribed (pending or confirmed); nothing changed.
    HasSubscribers,
}

/// Topics and API keys: small, read by everyone, copied by each api.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// What provisioning wrote; none when it has not run.
    async fn installation(&self) -> Result<Option<Installation>>;

    /// Makes the topic, or replaces its subject (its `created_at` stays); answers the row, and whether it is new. Its
    /// topology is declared *before* this is called.
    async fn put_topic(&self, topic: &Topic) -> Result<(Topic, bool)>;

    /// One topic. The topic `messages` always exists.
    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>>;

    /// All topics by name.
    async fn topics(&self) -> Result<Vec<Topic>>;

    /// Removes the row of a topic without subscribers. `messages` is *rejected*.
    async fn remove_topic(&self, name: &TopicName) -> Result<RemovedTopic>;

    /// Makes a key. *Conflict* when the id or hash is taken.
    async fn put_key(&self, key: &ApiKey) -> Result<()>;

    /// The key with this hash.
    async fn key(&self, hash: &KeyHash) -> Result<Option<ApiKey>>;

    /// All keys, newest first.
    async fn keys(&self) -> Result<Vec<ApiKey>>;

    /// Removes a key; false when there was none.
    async fn remove_key(&self, id: ApiKeyId) -> Result<bool>;
}
