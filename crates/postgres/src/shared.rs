//! What the ports of one store share.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use sqlx::postgres::{PgConnectOptions, PgRow};
use tidings_domain::{Error, Result};
use uuid::Uuid;

use crate::{
    changes::Stream,
    dependency::Health,
    fault::{self, Call},
    options::Options,
    pool::{Pool, Session, Statement},
    rows,
};

/// Rows that cannot be read of which a store remembers that it told of them.
const MAX_TOLD: usize = 1000;

/// How often a write that was rolled back for what others did meanwhile is repeated at once.
const REPEATS: u32 = 2;

/// What the ports share.
pub(crate) struct Shared {
    /// For everything but the table stream.
    pub(crate) pool: Pool,
    /// How a session beside the pool is opened, without what the pool's sessions set for themselves.
    pub(crate) connect: PgConnectOptions,
    /// As they were given.
    pub(crate) options: Options,
    /// What the last statements said.
    pub(crate) health: Arc<Health>,
    /// What the table streams of this store share.
    pub(crate) stream: Stream,
    /// The rows that cannot be read and were told of.
    told: Mutex<BTreeSet<Uuid>>,
}

impl Shared {
    pub(crate) fn new(pool: Pool, connect: PgConnectOptions, options: Options) -> Self {
        let stream = Stream::new(&options.meter);
        let health = Arc::new(Health::up("postgres"));
        Self { pool, connect, options, health, stream, told: Mutex::default() }
    }

    /// Reads rows.
    pub(crate) async fn read(&self, what: &str, statement: Statement) -> Result<Vec<PgRow>> {
        self.note(self.look(what, statement).await)
    }

    /// Reads rows, and leaves it to the caller what an error says of the server.
    pub(crate) async fn look(&self, what: &str, statement: Statement) -> Result<Vec<PgRow>> {
        let mut session = self.pool.session(what).await?;
        let rows = session.rows(statement).await;
        session.give_back(rows.as_ref().err());
        rows.map_err(|error| fault::of(error, Call::Read, what))
    }

    /// Reads one row.
    pub(crate) async fn read_one(&self, what: &str, statement: Statement) -> Result<Option<PgRow>> {
        Ok(self.read(what, statement).await?.into_iter().next())
    }

    /// Writes by one statement, made anew for each try; answers its rows.
    pub(crate) async fn write(&self, what: &str, statement: impl Fn() -> Statement) -> Result<Vec<PgRow>> {
        let mut tried = 0;
        loop {
            let mut session = self.session(what).await?;
            let rows = session.rows(statement()).await;
            let call = session.call();
            session.give_back(rows.as_ref().err());
            match rows {
                Err(error) if tried < REPEATS && fault::is_worth_repeating(&error) => tried += 1,
                rows => return self.note(rows.map_err(|error| fault::of(error, call, what))),
            }
        }
    }

    /// The same for one that counts what it wrote.
    pub(crate) async fn write_count(&self, what: &str, statement: impl Fn() -> Statement) -> Result<u64> {
        let rows = self.write(what, statement).await?;
        rows::count(fault::readable(rows.first(), "count")?, 0, "count")
    }

    /// A session for several statements; what is given back says how they went.
    pub(crate) async fn session(&self, what: &str) -> Result<Session> {
        self.note(self.pool.session(what).await)
    }

    /// Notes for readiness how a call went. After the end nothing is an illness any more.
    pub(crate) fn note<T>(&self, answer: Result<T>) -> Result<T> {
        match &answer {
            Ok(_) => self.health.well(),
            Err(_) if self.pool.is_closed() => {}
            Err(error) => self.health.failed(error),
        }
        answer
    }

    /// What a row holds; none where a hand in the database has broken it, which is told once. `id` is what `what` is about.
    pub(crate) fn whole<T>(&self, what: &'static str, id: Option<Uuid>, read: Result<T>) -> Option<T> {
        read.inspect_err(|error| {
            let id = id.unwrap_or_default();
            if self.is_news(id) {
                tracing::warn!(what, %id, error = error.chain(), "a row cannot be read and is passed over");
            }
        })
        .ok()
    }

    /// Whether the row `id` is to be told of: the first time that it cannot be read.
    pub(crate) fn is_news(&self, id: Uuid) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.len() < MAX_TOLD && told.insert(id)
    }
}

/// The error of a call that needs the installation, where there is none.
pub(crate) fn not_provisioned() -> Error {
    Error::misconfigured("the database has no installation: run `tidings provision`")
}
