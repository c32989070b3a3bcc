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

use crate::{
    dependency::{Health, Side},
    fault,
    group::{Entry, Operation, Request},
    queue::{self, QueueState},
    writer::Writer,
};

/// What the writer and the ports see of each other.
pub(crate) struct Shared {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) namespace: String,
    pub(crate) health: Arc<Health>,
    /// Which start of a server this is: the upper half of every lease's epoch.
    pub(crate) opens: i64,
    pub(crate) consumers: AtomicU64,
    pub(crate) queues: [QueueState; 4],
    /// The full names of the topics that stand.
    topics: Mutex<BTreeSet<String>>,
    /// Items were committed.
    pub(crate) changed: Notify,
    /// Mails were caught.
    pub(crate) caught: Notify,
    /// Held by the open change stream.
    pub(crate) stream: Arc<tokio::sync::Mutex<()>>,
}

impl Shared {
    pub(crate) fn new(clock: Arc<dyn Clock>, namespace: String, opens: i64, topics: Vec<String>) -> Self {
        Self {
            clock,
            namespace,
            health: Arc::new(Health::up()),
            opens,
            consumers: AtomicU64::new(0),
            queues: std::array::from_fn(|_| QueueState::default()),
            topics: Mutex::new(topics.into_iter().collect()),
            changed: Notify::new(),
            caught: Notify::new(),
            stream: Arc::default(),
        }
    }

    pub(crate) fn queue(&self, queue: Queue) -> &QueueState {
        &self.queues[queue::index(queue)]
    }

    /// An epoch that no consumer of this file has had.
    pub(crate) fn next_epoch(&self) -> u64 {
        let opens = u64::try_from(self.opens).unwrap_or_default();
        (opens << 32) | (self.consumers.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff)
    }

    pub(crate) fn stands(&self, topic: &str) -> bool {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).contains(topic)
    }

    pub(crate) fn declared(&self, topics: &[String]) {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).extend(topics.iter().cloned());
    }

    /// Another program has written: whatever may have come is looked at.
    pub(crate) fn foreign_write(&self, topics: Vec<String>) {
        *self.topics.lock().unwrap_or_else(PoisonError::into_inner) = topics.into_iter().collect();
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
