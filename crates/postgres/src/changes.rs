//! The table stream: `Changes` and `ChangeStream` on a replication slot.
//!
//! Two connections: one that the server streams on (`pump.rs`), and a plain one that records what is confirmed and looks
//! after the slot (`keeper.rs`). Between them and whoever reads stands the line (`line.rs`).
//!
//! What is confirmed is durable in our own row (`change_stream`) before the slot is moved, and the row is where a stream
//! begins again: so also the part of a large transaction that is confirmed does not come twice. Confirms of up to 200 ms
//! share a write of it. The slot follows once a second, and a slot that stands further than the row is not the one that we
//! made.

mod failure;
mod gauges;
mod identity;
mod instant;
mod keeper;
mod ledger;
mod line;
mod lsn;
mod opening;
mod pgoutput;
mod pgwire;
mod plain;
pub(crate) mod provision;
mod pump;
mod reader;
mod row;
mod state;
mod transport;

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use opentelemetry::metrics::Meter;
use sqlx::Row;
use tidings_domain::{
    Result,
    ports::{Captured, ChangeStream, Changes, Dependency as _, DependencyState, Position, StreamHold},
};
use tokio_util::task::TaskTracker;

use self::{gauges::Gauges, line::Line, state::StreamHealth};
use crate::{rows::Time, shared::not_provisioned, store::Shared};

/// How long the tasks of streams that were dropped may take to record and report, when the store is closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// The most changes that are counted: the count costs the server as much as it is large.
const MOST_COUNTED: i64 = 100_000;

const BACKLOG: &str = "SELECT made_at IS NOT NULL, confirmed_stored_at, (
        SELECT count(*) FROM (
            SELECT FROM items
            WHERE stored_at > coalesce(confirmed_stored_at, '-infinity')
                AND stored_at > coalesce($2, '-infinity'::timestamptz)
            LIMIT $3
        ) AS newer
    )
    FROM change_stream WHERE slot = $1";

/// What [`crate::Store::recover_slot`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveredSlot {
    /// The slot's name.
    pub slot: String,
    /// What was wrong with the old one, in words.
    pub was: String,
    /// Where the new one begins, as the server writes it (`0/16B3748`).
    pub begins_at: String,
}

/// What the streams of one store share.
pub(crate) struct Stream {
    pub(crate) health: Arc<StreamHealth>,
    gauges: Arc<Gauges>,
    /// Also those of streams that were dropped: they end by themselves, soon.
    tasks: TaskTracker,
    /// The one that is open in this process.
    line: Mutex<Weak<Line>>,
}

impl Stream {
    pub(crate) fn new(meter: &Meter) -> Self {
        Self {
            health: Arc::new(StreamHealth::new()),
            gauges: Arc::new(Gauges::new(meter)),
            tasks: TaskTracker::new(),
            line: Mutex::default(),
        }
    }

    /// Waits until what streams confirmed is recorded and reported, within a limit.
    pub(crate) async fn close(&self) {
        self.tasks.close();
        if let Some(line) = self.line() {
            line.closing.cancel();
        }
        let _ended_or_late = tokio::time::timeout(CLOSE_LIMIT, self.tasks.wait()).await;
    }

    fn reading(&self, line: &Arc<Line>) {
        *self.line.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(line);
    }

    fn line(&self) -> Option<Arc<Line>> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }
}

/// The port.
pub(crate) struct PostgresChanges(pub(crate) Arc<Shared>);

#[async_trait]
impl Changes for PostgresChanges {
    async fn open(&self) -> Result<Box<dyn ChangeStream>> {
        opening::open(&self.0).await
    }

    fn is_standing_by(&self) -> bool {
        self.0.stream.health.state() == DependencyState::StandingBy
    }

    /// An estimate: a slot knows bytes, not changes. What is read and not confirmed is counted exactly where the stream is
    /// open in this process; beyond that, items stored after the latest that is confirmed, at most 100,000.
    async fn backlog(&self) -> Result<u64> {
        let (read, confirmed) = match self.0.stream.line() {
            Some(line) => {
                let (unconfirmed, progress) = line.unconfirmed();
                (unconfirmed, progress.stored_at)
            }
            None => (0, None),
        };
        let slot = self.0.options.namespace.clone();
        let query = sqlx::query(BACKLOG).bind(slot).bind(confirmed.map(Time)).bind(MOST_COUNTED);
        let row = self.0.read_one("count changes", query).await?.ok_or_else(not_provisioned)?;
        let newer = row.try_get::<i64, _>(2).unwrap_or_default();
        Ok(u64::try_from(newer).unwrap_or_default().max(read))
    }
}

/// The open stream. Dropped, it ends in the background, within seconds: what was confirmed is recorded and reported first.
pub(crate) struct SlotStream {
    line: Arc<Line>,
}

impl SlotStream {
    fn new(line: Arc<Line>) -> Self {
        Self { line }
    }
}

#[async_trait]
impl ChangeStream for SlotStream {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Captured>> {
        self.line.next(max, wait).await
    }

    async fn confirm(&mut self, up_to: Position) -> Result<()> {
        self.line.confirm(up_to).await
    }

    fn hold(&self) -> Arc<dyn StreamHold> {
        Arc::new(SlotHold(Arc::clone(&self.line)))
    }
}

/// That the slot is still ours.
struct SlotHold(Arc<Line>);

impl StreamHold for SlotHold {
    fn check(&self) -> Result<()> {
        self.0.is_held()
    }
}

impl Drop for SlotStream {
    fn drop(&mut self) {
        self.line.closing.cancel();
    }
}
