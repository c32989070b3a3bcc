use std::time::Duration;

use async_trait::async_trait;

use crate::{Result, id::MessageId, idempotency::Fingerprint, time::Timestamp};

/// A token bucket that a request draws from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bucket {
    /// Whose: an owner, an address, a topic.
    pub name: String,
    /// Tokens that come back a second.
    pub per_second: u32,
    /// The most that it holds.
    pub burst: u32,
}

/// What is to be admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// All of these must have the cost; then it is drawn from all.
    pub buckets: Vec<Bucket>,
    /// Tokens: one a message.
    pub cost: u32,
    /// Ids derived from idempotency keys, each with the fingerprint of what is said under it now.
    pub fingerprints: Vec<(MessageId, Fingerprint)>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Go on. For each fingerprint, in order: whether another one is remembered under its id (that entry is refused,
    /// the others go on). What was not remembered is from now on.
    Go {
        /// One for each fingerprint.
        different: Vec<bool>,
    },
    /// Too fast: nothing was drawn or remembered.
    Wait {
        /// How long until the cost is there.
        retry_after: Duration,
    },
}

/// Rates, idempotency fingerprints, and what was just accepted. All may be lost at any time: never the store of record.
#[async_trait]
pub trait Limits: Send + Sync {
    /// Decides and remembers in one atomic step, before the publish.
    async fn admit(&self, request: &Request, at: Timestamp) -> Result<Admission>;

    /// Forgets fingerprints that `admit` remembered for entries that were then refused for another reason.
    async fn forget(&self, ids: &[MessageId]) -> Result<()>;

    /// Remembers, after the confirm, that these were accepted, for as long as the adapter can afford (minutes).
    async fn accepted(&self, ids: &[MessageId], at: Timestamp) -> Result<()>;

    /// When each was accepted, in order, where that is remembered.
    async fn is_accepted(&self, ids: &[MessageId]) -> Result<Vec<Option<Timestamp>>>;
}
