//! API keys: 32 random bytes kept as their SHA-256.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{id::ApiKeyId, time::Timestamp, topic::TopicName};

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Publish messages.
    Publish,
    /// Ask for subscriptions.
    Subscribe,
    /// Read messages, deliveries, topics.
    Read,
    /// All of it.
    Admin,
}

/// SHA-256 of a key's text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash of `key`.
    pub fn of(key: &str) -> Self {
        Self(Sha256::digest(key.as_bytes()).into())
    }
}

/// A key as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// Its hash.
    pub hash: KeyHash,
    /// Whose it is: the publisher that idempotent ids are made of.
    pub owner: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// On which topics; empty means all.
    pub topics: Vec<TopicName>,
    /// When it was made.
    pub created_at: Timestamp,
}

impl ApiKey {
    /// Whether it may do `scope` on `topic`.
    pub fn allows(&self, scope: Scope, topic: Option<&TopicName>) -> bool {
        let scoped = self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin);
        scoped && (self.topics.is_empty() || topic.is_some_and(|topic| self.topics.contains(topic)))
    }
}
