//! The pool, and everything that hangs on it.

use std::sync::Arc;

use sqlx::PgPool;
use tidings_domain::{
    Result,
    ports::{Catalog, Changes, DeadLetters, Deliveries, Dependency, Items, Subscriptions},
};

use crate::{changes::RecoveredSlot, options::Options};

/// What every port of one store shares.
pub(crate) struct Shared {
    /// For everything but the table stream.
    pub(crate) pool: PgPool,
    /// As they were given.
    pub(crate) options: Options,
}

/// One database. Its ports may outlive it; they answer *unavailable* once it is closed.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

impl Store {
    /// Reads the options. Connects when it is first asked for something, and again whenever it has to: the server may be
    /// down. Needs a tokio runtime.
    ///
    /// *Misconfigured*: the URL or a file that it names cannot be read; the context never holds the password.
    pub fn new(options: Options) -> Result<Self> {
        let _ = options;
        todo!("records")
    }

    /// Makes what is missing of schema, publication, slot and secret, in this order, each step for itself, so that one that
    /// was cut off is gone through again. The version row, which every service waits for, comes last and apart
    /// ([`Store::complete`]), once the bus stands too.
    ///
    /// A slot is made where there has never been one; one that is gone from an installation that had it is *gap*
    /// (`tidings recover`). *Misconfigured*: `wal_level` is not `logical`, a right is missing, no slot is free, or what
    /// stands there is another program's.
    pub async fn provision(&self) -> Result<()> {
        todo!("records and stream")
    }

    /// Writes the version row. Answers the version.
    pub async fn complete(&self) -> Result<u32> {
        todo!("records")
    }

    /// What is missing of what provisioning makes, by name, empty where nothing is. Writes nothing.
    pub async fn check(&self) -> Result<Vec<String>> {
        todo!("records and stream")
    }

    /// Makes the slot anew after a gap, where it is missing, invalidated or of another cluster: a person's act. What was
    /// committed before it and never notified has to be published again by whoever calls this (promise 7).
    pub async fn recover_slot(&self) -> Result<RecoveredSlot> {
        todo!("stream")
    }

    /// Ends its connections. Afterwards every port answers *unavailable*.
    pub async fn close(&self) {
        self.shared.pool.close().await;
    }

    /// The table `items`.
    pub fn items(&self) -> Arc<dyn Items> {
        todo!("records")
    }

    /// The table stream.
    pub fn changes(&self) -> Arc<dyn Changes> {
        todo!("stream")
    }

    /// Topics and keys.
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        todo!("records")
    }

    /// Who is subscribed.
    pub fn subscriptions(&self) -> Arc<dyn Subscriptions> {
        todo!("records")
    }

    /// Notifications and deliveries.
    pub fn deliveries(&self) -> Arc<dyn Deliveries> {
        todo!("records")
    }

    /// What cannot go on.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        todo!("records")
    }

    /// `postgres`: what the last statements said.
    pub fn dependency(&self) -> Arc<dyn Dependency> {
        todo!("records")
    }

    /// `replication`: what the table stream last saw: up, standing by, or the gap by its name.
    pub fn stream_dependency(&self) -> Arc<dyn Dependency> {
        todo!("stream")
    }
}
