//! The one connection: kept up in the background, waited for only as long as a first attempt is under way.
//!
//! Calls never try a server that is away: one call finds out, the others go to the fallback at once, and only the keeper
//! connects anew, with back-off, until the server would take a write again.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use redis::{
    Cmd, ErrorKind, FromRedisValue, RedisResult, Script, ServerErrorKind, aio::MultiplexedConnection,
};
use tidings_domain::{backoff::Backoff, ports::Entropy};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{dependency::MEANWHILE, failure, server::Server};

/// How long connecting may take, with its login and its probe.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The waits between attempts to connect.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) };

/// The wait after a panic of the keeper.
const RESTART: Duration = Duration::from_secs(1);

/// A connection that lasted so long was a good one: the next attempt is a first one again.
const STEADY: Duration = Duration::from_secs(30);

/// How often a connection is tried while nobody may be using it: one that is dead is found before a call is.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// The connection and what is known of it.
pub(crate) struct Link {
    server: Server,
    timeout: Duration,
    entropy: Arc<dyn Entropy>,
    /// What the probe touches and leaves as it is.
    probe_key: String,
    state: Mutex<State>,
    /// The state has changed.
    changed: Notify,
}

enum State {
    /// A first attempt, at the start or after a connection ended by itself, is under way: calls wait for it.
    Connecting,
    Up {
        connection: MultiplexedConnection,
        /// Which connection it is.
        life: u64,
    },
    /// Calls go to the fallback.
    Away { reason: String, since: Instant },
}

/// What became of a command that nobody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It is on its way.
    Queued,
    /// Too many wait before it: it is not sent.
    Full,
    /// There is no connection: it is not sent.
    Away,
}

impl Link {
    pub(crate) fn new(server: Server, timeout: Duration, namespace: &str, entropy: Arc<dyn Entropy>) -> Self {
        Self {
            server,
            timeout,
            entropy,
            probe_key: format!("{namespace}:probe"),
            state: Mutex::new(State::Connecting),
            changed: Notify::new(),
        }
    }

    /// Host and port.
    pub(crate) fn server(&self) -> &str {
        &self.server.name
    }

    /// Why the fallback answers; none while Redis does.
    pub(crate) fn trouble(&self) -> Option<String> {
        match &*self.lock() {
            State::Connecting => Some("not connected yet".to_owned()),
            State::Up { .. } => None,
            State::Away { reason, .. } => Some(reason.clone()),
        }
    }

    /// The answer to `command`, or none where Redis is away or becomes so: the command may have had its effect then. A
    /// command whose connection ended under it is sent once more on the next one.
    pub(crate) async fn ask<T: FromRedisValue>(&self, command: &Cmd, script: Option<&Script>) -> Option<T> {
        let deadline = Instant::now() + self.timeout;
        let mut is_repeated = false;
        loop {
            let (mut connection, life) = self.connection(deadline).await?;
            let reason = match timeout_at(deadline, query(&mut connection, command, script)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) if error.is_connection_dropped() && !is_repeated => {
                    is_repeated = true;
                    self.dropped(life);
                    continue;
                }
                Ok(Err(error)) => failure::reason(&error),
                Err(_) => self.too_slow("no answer"),
            };
            self.away(Some(life), reason);
            return None;
        }
    }

    /// Sends `command` after those before it and waits for nothing. Its answer, also a refusal, is thrown away.
    pub(crate) fn send(&self, mut command: Cmd) -> Sent {
        let (mut connection, life) = match &*self.lock() {
            State::Up { connection, life } => (connection.clone(), *life),
            State::Connecting | State::Away { .. } => return Sent::Away,
        };
        command.set_no_response(true);
        // Polled once: with room in the queue it is in it, else it never will be. The task's budget must not say otherwise.
        let sending = tokio::task::unconstrained(connection.send_packed_command(&command));
        match sending.now_or_never() {
            Some(Ok(_)) => Sent::Queued,
            Some(Err(_)) => {
                self.dropped(life);
                Sent::Away
            }
            None => Sent::Full,
        }
    }

    /// The connection, waited for while a first attempt is under way.
    async fn connection(&self, deadline: Instant) -> Option<(MultiplexedConnection, u64)> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            match &*self.lock() {
                State::Up { connection, life } => return Some((connection.clone(), *life)),
                State::Away { .. } => return None,
                State::Connecting => {}
            }
            if timeout_at(deadline, changed).await.is_err() {
                self.away(None, self.too_slow("no connection"));
                return None;
            }
        }
    }

    fn too_slow(&self, what: &str) -> String {
        format!("{what} within {} ms", self.timeout.as_millis())
    }

    /// The connection `life` has ended by itself, as when a server is restarted or closes what is idle.
    fn dropped(&self, life: u64) {
        let mut state = self.lock();
        if matches!(&*state, State::Up { life: now, .. } if *now == life) {
            *state = State::Connecting;
            self.changed.notify_waiters();
        }
    }

    /// Redis is away: found on the connection `life`, or without one. Logged where it is news.
    fn away(&self, life: Option<u64>, reason: String) {
        let mut state = self.lock();
        match (&mut *state, life) {
            // Someone else has found out, and the keeper may have mended it since.
            (State::Up { life: now, .. }, Some(life)) if *now != life => return,
            (State::Up { .. }, None) | (State::Connecting, Some(_)) => return,
            (State::Away { reason: known, .. }, life) => {
                // What the keeper finds is newer.
                if life.is_none() {
                    *known = reason;
                }
                return;
            }
            (State::Up { .. }, Some(_)) | (State::Connecting, None) => {}
        }
        let server = self.server();
        tracing::warn!(server, reason, "redis is away: {MEANWHILE}");
        *state = State::Away { reason, since: Instant::now() };
        self.changed.notify_waiters();
    }

    fn up(&self, connection: MultiplexedConnection, life: u64) {
        let before = std::mem::replace(&mut *self.lock(), State::Up { connection, life });
        self.changed.notify_waiters();
        let server = self.server();
        match before {
            State::Away { since, .. } => {
                let away_s = since.elapsed().as_secs_f64();
                tracing::info!(server, away_s, "redis is back: limits are shared again");
            }
            State::Connecting | State::Up { .. } => tracing::debug!(server, "connected to redis"),
        }
    }

    /// A new connection to a server that would take a write.
    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let connecting = async {
            let mut connection = self.server.connect().await?;
            self.probe(&mut connection).await?;
            Ok(connection)
        };
        match timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error: redis::RedisError| failure::reason(&error)),
            Err(_) => {
                let (within, hint) = (CONNECT_TIMEOUT.as_millis(), self.server.silence());
                Err(format!("no connection within {within} ms{hint}"))
            }
        }
    }

    /// Asks for a write of no bytes, which changes nothing: refused where a write would be (memory, a replica, a disk that
    /// is full, rights).
    async fn probe(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        redis::cmd("SETRANGE").arg(&self.probe_key).arg(0).arg("").exec_async(connection).await
    }

    /// Waits until `life` is no longer the connection, and looks now and then whether it still works.
    async fn watch(&self, mut connection: MultiplexedConnection, life: u64) {
        let mut probe_at = Instant::now() + PROBE_INTERVAL;
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !matches!(&*self.lock(), State::Up { life: now, .. } if *now == life) {
                return;
            }
            if timeout_at(probe_at, changed).await.is_ok() {
                continue;
            }
            match timeout(self.timeout, self.probe(&mut connection)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if error.is_connection_dropped() => self.dropped(life),
                Ok(Err(error)) => self.away(Some(life), failure::reason(&error)),
                Err(_) => self.away(Some(life), self.too_slow("no answer")),
            }
            probe_at = Instant::now() + PROBE_INTERVAL;
        }
    }

    /// Connects, and again whenever that is needed, for ever.
    async fn keep(&self, lives: &mut u64) -> Infallible {
        let mut failures = 0;
        loop {
            match self.connect().await {
                Ok(connection) => {
                    *lives += 1;
                    let began = Instant::now();
                    self.up(connection.clone(), *lives);
                    self.watch(connection, *lives).await;
                    if began.elapsed() >= STEADY {
                        failures = 0;
                    }
                }
                Err(reason) => self.away(None, reason),
            }
            failures += 1;
            // One that ended by itself after a good time is replaced at once; calls wait for that.
            let has_ended = matches!(&*self.lock(), State::Connecting);
            if has_ended && failures == 1 {
                continue;
            }
            if has_ended {
                self.away(None, "the connection ended, and soon".to_owned());
            }
            sleep(BACKOFF.wait(failures, &*self.entropy)).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps `link` up for ever: no fault of ours ends it in silence.
pub(crate) async fn keep(link: Arc<Link>) {
    let mut lives = 0;
    loop {
        let life = std::panic::AssertUnwindSafe(link.keep(&mut lives)).catch_unwind();
        let Err(_) = life.await;
        tracing::error!("the keeper of the connection to redis panicked");
        link.dropped(lives);
        link.away(None, "a fault of ours, which the log has".to_owned());
        sleep(RESTART).await;
    }
}

/// Sends a command and waits for its answer; a script that the server does not know, as after a restart, is loaded first.
async fn query<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    command: &Cmd,
    script: Option<&Script>,
) -> RedisResult<T> {
    match (command.query_async(connection).await, script) {
        (Err(error), Some(script)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
            script.load_async(connection).await?;
            command.query_async(connection).await
        }
        (answer, _) => answer,
    }
}
