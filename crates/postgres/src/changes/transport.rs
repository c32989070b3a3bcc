//! What the stream needs of a replication connection, so that the library under it can be another.

use async_trait::async_trait;
use bytes::Bytes;

use super::{failure::Failure, lsn::Lsn};

/// What comes from the server, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A transaction that has committed begins: its rows follow, then its commit.
    Begin {
        /// Where its commit stands.
        commit: Lsn,
        /// Its id.
        xid: u32,
    },
    /// It ends.
    Commit {
        /// The end of its commit: what is confirmed, never the commit's own place, from where it would come again.
        end: Lsn,
    },
    /// Everything else of the output plugin, as it is.
    Data(Bytes),
    /// `pg_logical_emit_message`.
    Message {
        /// Whether it belongs to the transaction that it stands in.
        transactional: bool,
        /// Where it stands.
        lsn: Lsn,
        /// Whose it is.
        prefix: String,
        /// What it says.
        content: Bytes,
    },
    /// The server has read its log up to here.
    KeepAlive {
        /// Up to where.
        wal_end: Lsn,
        /// Whether it asked for a sign of life, which the transport has given: also what it does when it shuts down.
        reply_requested: bool,
    },
}

/// What the server says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// One for the life of the cluster.
    pub(crate) system_id: String,
    /// Raised by each promotion.
    pub(crate) timeline: u32,
}

/// A row of a query's answer, each value as text.
pub(crate) type TextRow = Vec<Option<String>>;

/// Makes connections.
#[async_trait]
pub(crate) trait Connector: Send + Sync {
    /// Connects, and lets questions be asked before the stream begins on this very connection. Bounded in time.
    async fn connect(&self) -> Result<Box<dyn Gate>, Failure>;
}

/// A replication connection that does not stream yet. Each call is bounded in time.
#[async_trait]
pub(crate) trait Gate: Send {
    /// Asks the server who it is.
    async fn identify(&mut self) -> Result<Identity, Failure>;

    /// Where each earlier timeline ended, oldest first. Not asked for timeline 1, which has none.
    async fn history(&mut self, timeline: u32) -> Result<Vec<(u32, Lsn)>, Failure>;

    /// Runs one statement.
    async fn query(&mut self, sql: &str) -> Result<Vec<TextRow>, Failure>;

    /// Begins to stream from the slot's own position; it is held from then on.
    async fn start(self: Box<Self>) -> Result<Box<dyn Transport>, Failure>;
}

/// An open stream. Dropped, it ends.
#[async_trait]
pub(crate) trait Transport: Send {
    /// Waits for events and appends what is there, at most about `most`. Cancel-safe: no event is lost.
    async fn next(&mut self, events: &mut Vec<Event>, most: usize) -> Result<(), Failure>;

    /// Lets the server know that everything before `applied` is confirmed; it is told in its time.
    fn report(&mut self, applied: Lsn);

    /// The last position that was told.
    fn reported(&mut self) -> Lsn;

    /// Ends the stream in order, within a second.
    async fn close(self: Box<Self>);
}
