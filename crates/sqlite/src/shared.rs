//! What the ports of one store share: the writer, the readers, and what is kept in memory.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use sqlx::SqlitePool;
use tidings_domain::{
    Error, Result,
    ports::{Clock, Queue},
};
use tokio::sync::Notify;
use uuid::Uuid;

use crate::{
    dependency::{Health, Side},
    fault,
    group::{Entry, Operation, Request},
    queue::{self, QueueState},
    writer::Writer,
};

/// Rows that cannot be read of which a server remembers that it told of them.
const MAX_TOLD: usize = 1000;

/// What the writer and the ports see of each other.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) namespace: String,
    pub(crate) health: Arc<Health>,
    /// Which start of a server this is: the upper half of every lease's epoch.
    pub(crate) opens: i64,
    pub(crate) consumers: AtomicU64,
    pub(crate) queues: [QueueState; 4],
    /// Items were committed.
    pub(crate) changed: Notify,
    /// Mails were caught.
    pub(crate) caught: Notify,
    /// Held by the open change stream.
    pub(crate) stream: Arc<tokio::sync::Mutex<()>>,
    /// The rows that cannot be read and were told of.
    told: Mutex<BTreeSet<Uuid>>,
}

impl Shared {
    pub(crate) fn new(clock: Arc<dyn Clock>, namespace: String, opens: i64) -> Self {
        Self {
            clock,
            namespace,
            health: Arc::new(Health::up()),
            opens,
            consumers: AtomicU64::new(0),
            queues: std::array::from_fn(|_| QueueState::default()),
            changed: Notify::new(),
            caught: Notify::new(),
            stream: Arc::default(),
            told: Mutex::default(),
        }
    }

    /// Whether the row `id` is to be told of: the first time that it cannot be read.
    pub(crate) fn is_news(&self, id: Uuid) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MAX_TOLD && told.insert(id)
    }

    pub(crate) fn queue(&self, queue: Queue) -> &QueueState {
        &self.queues[queue::index(queue)]
    }

    /// An epoch that no consumer of this file has had.
    pub(crate) fn next_epoch(&self) -> u64 {
        let opens = u64::try_from(self.opens).unwrap_or_default();
        (opens << 32) | (self.consumers.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff)
    }

    /// Another program has written: whatever may have come is looked at.
    pub(crate) fn foreign_write(&self) {
        for queue in &self.queues {
            queue.look_again();
        }
        self.changed.notify_waiters();
        self.caught.notify_waiters();
    }
}

/// What each port holds.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) writer: Writer,
    pub(crate) readers: SqlitePool,
}

impl Handle {
    /// Writes through the writer.
    pub(crate) async fn write<R>(&self, request: R) -> Result<R::Answer>
    where
        R: Request,
        Operation: From<Entry<R>>,
    {
        self.writer.write(request).await
    }

    /// What a read came to, noted for readiness.
    pub(crate) fn read<T>(&self, read: sqlx::Result<T>, what: &str) -> Result<T> {
        match read {
            Ok(value) => {
                self.shared.health.well(Side::Read);
                Ok(value)
            }
            Err(error) => {
                let error: Error = fault::without_effect(error, what);
                self.shared.health.failed(Side::Read, &error);
                Err(error)
            }
        }
    }
}
