//! The pool: sessions that are shared by everything but the table stream.
//!
//! A pool of our own, since the driver's cannot tell two things apart that matter here: while the server is away it tries
//! again silently until its limit, and then says only that it waited; and it asks a session that comes back whether it
//! lives, which is one more round trip for every statement, without a limit where the network is frozen.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sqlx::{
    ConnectOptions, Connection, Postgres,
    postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow},
    query::Query,
};
use tidings_domain::Result;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use crate::fault::{self, Call};

/// A statement with its parameters.
pub(crate) type Statement = Query<'static, Postgres, PgArguments>;

/// A session that was not used for this long is asked whether it lives before it gets a statement, so that a restart of the
/// server does not make the outcome of the next write unknown.
const UNSURE_AFTER: Duration = Duration::from_millis(500);

/// A session that was not used for this long is closed by the next who looks.
const IDLE_LIMIT: Duration = Duration::from_secs(10 * 60);

/// How long a session lives: its memory in the server begins anew.
const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How much longer than the server's own limit we wait for its answer.
const ANSWER_MARGIN: Duration = Duration::from_secs(1);

/// Shared sessions.
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    connect: PgConnectOptions,
    permits: Arc<Semaphore>,
    max: u32,
    /// The server's limit for a statement.
    limit: Duration,
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    connection: PgConnection,
    opened_at: Instant,
    used_at: Instant,
}

impl Inner {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that was used last.
    fn take_idle(&self) -> Option<Idle> {
        let mut idle = self.idle();
        idle.retain(|idle| idle.used_at.elapsed() < IDLE_LIMIT && idle.opened_at.elapsed() < LIFETIME);
        idle.pop()
    }
}

impl Pool {
    /// A pool of at most `max` sessions. Connects to nothing.
    pub(crate) fn new(connect: PgConnectOptions, max: u32, limit: Duration) -> Self {
        let max = max.max(1);
        let permits = Arc::new(Semaphore::new(max as usize));
        Self(Arc::new(Inner { connect, permits, max, limit, idle: Mutex::default() }))
    }

    /// A session, within the statement timeout: one that was given back, else a new one. An error is of connecting, for
    /// `what`: nothing was done.
    pub(crate) async fn session(&self, what: &str) -> Result<Session> {
        self.open().await.map_err(|error| fault::of(error, Call::Connect, what))
    }

    async fn open(&self) -> sqlx::Result<Session> {
        let inner = &self.0;
        let by = Instant::now() + inner.limit;
        let permit = match timeout_at(by, Arc::clone(&inner.permits).acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_closed)) => return Err(sqlx::Error::PoolClosed),
            Err(_elapsed) => return Err(sqlx::Error::PoolTimedOut),
        };
        let session = |connection, opened_at, permit| Session {
            connection: Some(connection),
            opened_at,
            in_transaction: false,
            inner: Arc::clone(inner),
            _permit: permit,
        };
        while let Some(mut idle) = inner.take_idle() {
            if idle.used_at.elapsed() < UNSURE_AFTER
                || matches!(timeout(ANSWER_MARGIN, idle.connection.ping()).await, Ok(Ok(())))
            {
                return Ok(session(idle.connection, idle.opened_at, permit));
            }
            // The others are of the same time.
            inner.idle().clear();
        }
        match timeout_at(by, inner.connect.connect()).await {
            Ok(connection) => Ok(session(connection?, Instant::now(), permit)),
            Err(_elapsed) => Err(fault::no_answer()),
        }
    }

    /// The longest that a session and one answer are waited for, each.
    pub(crate) fn step_limit(&self) -> Duration {
        self.0.limit + ANSWER_MARGIN
    }

    /// Whether no more sessions are given.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.permits.is_closed()
    }

    /// Ends all sessions, once what runs has ended; no more are given.
    pub(crate) async fn close(&self) {
        let inner = &self.0;
        let all = Arc::clone(&inner.permits).acquire_many_owned(inner.max);
        let _all_that_ended = timeout(inner.limit + ANSWER_MARGIN, all).await;
        inner.permits.close();
        let idle = std::mem::take(&mut *inner.idle());
        for idle in idle {
            let _gone_either_way = timeout(ANSWER_MARGIN, idle.connection.close()).await;
        }
    }
}

/// A session of the pool. Dropped without [`Session::give_back`] it is closed: whoever is cut off leaves nothing half done.
pub(crate) struct Session {
    /// None once it is given back.
    connection: Option<PgConnection>,
    opened_at: Instant,
    /// Whether a transaction is open whose commit was not yet sent.
    in_transaction: bool,
    inner: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Session {
    /// The connection itself, without our limit: for the driver's own helpers.
    pub(crate) fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("a session has its connection until it is given back")
    }

    /// Runs a statement and reads its rows; no answer within the statement timeout and a second is an error.
    pub(crate) async fn rows(&mut self, statement: Statement) -> sqlx::Result<Vec<PgRow>> {
        let limit = self.inner.limit + ANSWER_MARGIN;
        let answer = timeout(limit, statement.fetch_all(self.connection())).await;
        answer.unwrap_or_else(|_elapsed| Err(fault::no_answer()))
    }

    /// The same; answers how many rows it wrote.
    pub(crate) async fn execute(&mut self, statement: Statement) -> sqlx::Result<u64> {
        let limit = self.inner.limit + ANSWER_MARGIN;
        let answer = timeout(limit, statement.execute(self.connection())).await;
        answer.unwrap_or_else(|_elapsed| Err(fault::no_answer())).map(|done| done.rows_affected())
    }

    /// Begins a transaction: until its commit nothing has an effect.
    pub(crate) async fn begin(&mut self) -> sqlx::Result<()> {
        self.in_transaction = true;
        self.execute(sqlx::query("BEGIN")).await.map(|_| ())
    }

    /// Commits it.
    pub(crate) async fn commit(&mut self) -> sqlx::Result<()> {
        self.in_transaction = false;
        self.execute(sqlx::query("COMMIT")).await.map(|_| ())
    }

    /// Rolls it back.
    pub(crate) async fn roll_back(&mut self) -> sqlx::Result<()> {
        self.execute(sqlx::query("ROLLBACK")).await?;
        self.in_transaction = false;
        Ok(())
    }

    /// What an error of a write means just now.
    pub(crate) fn call(&self) -> Call {
        if self.in_transaction { Call::Read } else { Call::Write }
    }

    /// For the next one. Where `error` came of its last statement, only if that leaves it as good as before.
    pub(crate) fn give_back(mut self, error: Option<&sqlx::Error>) {
        if self.in_transaction || error.is_some_and(|error| !fault::leaves_session(error)) {
            // Others were opened before the same fault.
            if error.is_some_and(|error| fault::sqlstate(error).is_none()) {
                self.inner.idle().clear();
            }
            return;
        }
        if let Some(connection) = self.connection.take().filter(|_| !self.inner.permits.is_closed()) {
            let idle = Idle { connection, opened_at: self.opened_at, used_at: Instant::now() };
            self.inner.idle().push(idle);
        }
    }
}
