use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Result,
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource},
    delivery::LeaseToken,
    id::DeadLetterId,
    page::{Page, PageRequest},
    time::Timestamp,
};

/// A marked dead letter held under a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedDeadLetter {
    /// The row.
    pub letter: DeadLetter,
    /// The lease.
    pub token: LeaseToken,
}

/// How many dead letters there are of a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetterDepth {
    /// Where they came from.
    pub source: DeadLetterSource,
    /// Why.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// When the oldest was written.
    pub oldest_at: Timestamp,
}

/// What cannot go on. The api lists, marks and discards; each service puts, claims and settles its own.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Writes each; one whose id has a row already changes nothing. Durable before what it came from is acknowledged.
    async fn put(&self, letters: Vec<DeadLetter>) -> Result<()>;

    /// A page, newest `created_at` first, then by id. Listing changes nothing, however often.
    async fn list(&self, selection: &DeadLetterSelection, page: &PageRequest) -> Result<Page<DeadLetter>>;

    /// Marks the selected for redrive; answers how many are now marked that were not. Marking is all that a redrive
    /// request does.
    async fn mark(&self, selection: &DeadLetterSelection, at: Timestamp) -> Result<u64>;

    /// How many are selected: a dry run.
    async fn count(&self, selection: &DeadLetterSelection) -> Result<u64>;

    /// Removes the selected, whatever their mark; answers how many.
    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64>;

    /// Leases up to `max` marked letters of `source`, oldest mark first. Two claimers never hold one letter.
    async fn claim(
        &self,
        source: DeadLetterSource,
        max: u32,
        token: LeaseToken,
        at: Timestamp,
        lease: Duration,
    ) -> Result<Vec<ClaimedDeadLetter>>;

    /// Ends the redrive of each held letter: `None` deletes the row (its handler said *done*); `Some(letter)` writes the
    /// row anew, unmarked, with what it says now. A lease that was lost changes nothing for that letter.
    async fn settle(&self, settled: Vec<(DeadLetterId, LeaseToken, Option<DeadLetter>)>) -> Result<()>;

    /// How many there are by source and reason.
    async fn depths(&self) -> Result<Vec<DeadLetterDepth>>;
}
