use async_trait::async_trait;

use crate::{
    Result,
    id::MessageId,
    item::Item,
    message::Message,
    page::{Page, PageRequest},
    time::Timestamp,
    topic::TopicName,
};

/// A row to insert; its `stored_at` is the store's own.
#[derive(Clone, Debug, PartialEq)]
pub struct NewItem {
    /// The message, with the trace context that the row is to carry.
    pub message: Message,
    /// The time of the call.
    pub stored_at: Timestamp,
}

/// What inserting one entry comes to. All three are durable answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// The row is new and will come on the table stream.
    New,
    /// The row was there and says the same (see [`Message::says_the_same_as`]).
    AlreadyThere,
    /// The row was there and says something else.
    Conflict,
}

/// Which items are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ItemQuery {
    /// Of this topic.
    pub topic: Option<TopicName>,
    /// Stored at this time or later.
    pub since: Option<Timestamp>,
    /// Stored before this time.
    pub until: Option<Timestamp>,
    /// Which page.
    pub page: PageRequest,
}

/// What a retention step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Items removed, each with its notifications, deliveries and dead letters in one transaction.
    pub removed: u64,
    /// Items past retention that stay because they were not expanded or something of theirs is open.
    pub open: u64,
    /// Whether there may be more to remove at once.
    pub more: bool,
    /// Whether another worker is the elected one; then nothing was done.
    pub standing_by: bool,
}

/// The table `items`: one row per message id for ever (that is, for the retention).
#[async_trait]
pub trait Items: Send + Sync {
    /// Inserts each of `batch` that has no row yet, as one statement with ids sorted, and answers for each, in order.
    /// Of two entries with one id in a batch the first is inserted and the second compared with it.
    ///
    /// An error is the batch's: *rejected* when the store refuses a row (the caller tries entry by entry), *unknown*
    /// when the answer was lost: inserting the same batch again is harmless.
    async fn insert(&self, batch: &[NewItem]) -> Result<Vec<Inserted>>;

    /// The rows of `ids`, in order; none where there is no row. Consistent: an insert that was answered is seen.
    async fn get(&self, ids: &[MessageId]) -> Result<Vec<Option<Item>>>;

    /// A page, newest `stored_at` first, then by id.
    async fn list(&self, query: &ItemQuery) -> Result<Page<Item>>;

    /// One paced step of retention: removes up to `max` items stored before `before` that were expanded, or whose change
    /// is a dead letter so that they never are, and of which nothing is open, no letter marked for redrive either; dead letters that are about no item go by their own age. Confirmed rows of a change log are no
    /// business of this.
    async fn expire(&self, before: Timestamp, max: u32) -> Result<Expired>;

    /// Reads one id, as a probe: Ok means that reads answer. Writes nothing.
    async fn ping(&self) -> Result<()>;
}
