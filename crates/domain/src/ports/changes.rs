use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{Result, id::MessageId, item::Change, topic::TopicName};

/// Where a change stands among those that one open stream handed out. Opaque; ordered within its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which partition (shard); 0 where there is one only.
    pub partition: u32,
    /// Counts up within the partition, in the order of handing out.
    pub offset: u64,
}

/// A row that cannot be read as an item: a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableChange {
    /// The row's id, where at least that can be read: whoever asks for this message is then told of the letter.
    pub message_id: Option<MessageId>,
    /// The row's topic, where that can be read.
    pub topic: Option<TopicName>,
    /// The row, in whatever form the store has it: for people.
    pub bytes: Bytes,
    /// What is wrong with it.
    pub detail: String,
}

/// One entry of the stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Captured {
    /// What to confirm.
    pub position: Position,
    /// The change, or a row that cannot be read as an item: a dead letter, then confirmed.
    pub content: std::result::Result<Change, UnreadableChange>,
}

/// The table stream of new items.
#[async_trait]
pub trait Changes: Send + Sync {
    /// Opens the stream after the last confirmed position. While another holds it, waits; meanwhile the adapter's
    /// [`super::Dependency`] says *standing by*. *Gap*: it cannot be opened without skipping changes; it never skips.
    async fn open(&self) -> Result<Box<dyn ChangeStream>>;

    /// Asked while an opening is under way: whether it waits for another who holds the stream. No I/O: what the adapter
    /// last saw. False where it waits for a store that does not answer.
    fn is_standing_by(&self) -> bool;

    /// Changes not yet confirmed, as far as the store can tell cheaply: for readiness and metrics.
    async fn backlog(&self) -> Result<u64>;
}

/// The open stream, one reader at a time.
#[async_trait]
pub trait ChangeStream: Send {
    /// Up to `max` next entries; waits up to `wait` for the first. Cancel-safe: what a dropped call had taken comes with
    /// the next one. Transactions that commit out of the order of their ids are not skipped; rolled-back ones never come.
    ///
    /// An error ends the stream (*gap*, *unavailable*, *lease lost* when another took it over); open it again: it then
    /// begins after the last confirmed position, so what was handed out and not confirmed comes again.
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Captured>>;

    /// Moves the durable position past `up_to` and all before it in its partition. Called only after everything up to
    /// it was published and confirmed. Confirming what is confirmed changes nothing. Where each move costs, an adapter may
    /// gather those of a moment (it says how long): after a crash what was confirmed in it comes again.
    async fn confirm(&mut self, up_to: Position) -> Result<()>;

    /// What tells whether the stream is still its reader's, for whoever acts on what it handed out while it is read on. A
    /// decorator passes on what the stream within says. As it stands here: for a stream that nobody else can take over.
    fn hold(&self) -> Arc<dyn StreamHold> {
        Arc::new(Undisputed)
    }
}

/// Whether an open stream is still its reader's.
pub trait StreamHold: Send + Sync {
    /// Asked right before each publish of what the stream handed out. No I/O: what this process last saw, and whether it
    /// has stood still for so long (stopped, swapped out) that another may read the stream by now. The error is the one
    /// that ends the stream; after it nothing more is published before the stream was opened again.
    fn check(&self) -> Result<()>;
}

/// The hold of a stream that nobody else can take over.
struct Undisputed;

impl StreamHold for Undisputed {
    fn check(&self) -> Result<()> {
        Ok(())
    }
}
