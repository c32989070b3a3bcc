//! One connection that is made again for as long as the bus lives. Whatever hangs on it ends with it; whoever needs it asks for
//! the one that stands now.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::StreamExt as _;
use lapin::{Channel, Connection, Event};
use tidings_domain::{Error, ErrorKind, Result, backoff::Backoff, ports::Entropy};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

use crate::{
    dial::{Dialer, Socket},
    failure,
    metrics::Metrics,
};

/// Waits between attempts at a broker that is away: flow is to resume within seconds of its return.
const AWAY: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(2) };

/// Waits between attempts that a person has to mend (login, virtual host, certificate).
const REFUSED: Backoff = Backoff { first: Duration::from_secs(1), most: Duration::from_secs(15) };

/// Waits after a connection that ended over a message that cannot be read: the broker moves the message away only after a
/// thousand of them, and until then it holds up the queue.
const UNREADABLE: Backoff = Backoff { first: Duration::from_millis(20), most: Duration::from_millis(20) };

/// How long one message at a time is taken over the next connection.
const CAUTIOUS: Duration = Duration::from_secs(5);

/// A connection that lived so long was no failed attempt.
const LIVED: Duration = Duration::from_secs(10);

/// How long after a loss calls still wait for the next connection before they answer *unavailable*.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often a connection is looked at, beside its events: the library tells of most ends, not of all.
const LOOK: Duration = Duration::from_millis(500);

/// Opening a channel on a connection that stands.
pub(crate) const CHANNEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Closing a connection that stands.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that stands, or stood.
pub(crate) struct Live {
    /// Which of the connections of its link: nothing of one holds on another.
    pub(crate) epoch: u64,
    born: Instant,
    connection: Connection,
    socket: Socket,
    blocked: Mutex<Option<String>>,
}

impl Live {
    pub(crate) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Why the broker takes no publish on it (an alarm), if it says so.
    pub(crate) fn blocked(&self) -> Option<String> {
        if !self.connection.status().blocked() {
            return None;
        }
        let reason = self.blocked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(reason.unwrap_or_else(|| "an alarm".to_owned()))
    }

    /// Bytes of the largest frame.
    pub(crate) fn frame_max(&self) -> usize {
        self.connection.configuration().frame_max() as usize
    }

    /// A channel of the caller's own, closed when its last clone is dropped.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        match timeout(CHANNEL_TIMEOUT, self.connection.create_channel()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(failure::failed("open a channel", error)),
            Err(_) => Err(Error::unavailable("open a channel: the broker does not answer")),
        }
    }

    fn set_blocked(&self, reason: Option<String>) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Waits for its end; answers why, where that is known.
    async fn ended(&self) -> Option<lapin::Error> {
        let events = self.connection.events_listener();
        tokio::pin!(events);
        let mut why = None;
        while self.is_connected() {
            tokio::select! {
                biased;
                Some(event) = events.next() => match event {
                    Event::ConnectionBlocked(reason) => {
                        tracing::warn!(reason, "the broker has blocked publishing");
                        self.set_blocked(Some(reason));
                    }
                    Event::ConnectionUnblocked => {
                        tracing::info!("the broker takes publishes again");
                        self.set_blocked(None);
                    }
                    // Also of a channel's end: then the connection still stands.
                    Event::Error(error) => why = Some(error),
                    _ => {}
                },
                () = sleep(LOOK) => {}
            }
        }
        why
    }

    async fn close(&self) {
        if self.is_connected() {
            let _ = timeout(CLOSE_TIMEOUT, self.connection.close(200, "OK".into())).await;
        }
        self.socket.end();
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // Where nobody could close it (its runtime ends), its thread ends all the same.
        self.socket.end();
    }
}

#[derive(Default)]
struct State {
    /// Whether anyone has asked for it yet.
    wanted: bool,
    live: Option<Arc<Live>>,
    /// Since when it is asked for and does not stand.
    down_since: Option<Instant>,
    /// Why not.
    why: Option<Error>,
    /// Whether the last connection ended over a message that cannot be read.
    unreadable: bool,
    closed: bool,
}

impl State {
    fn why_not(&self) -> Error {
        let not_yet = || Error::unavailable("connect to the broker: it does not answer");
        self.why.as_ref().map_or_else(not_yet, Error::copy)
    }
}

/// How a link is doing.
pub(crate) enum Condition {
    /// Nobody has needed it yet.
    Unused,
    Up,
    Blocked(String),
    Down(String),
}

/// The connection of one role.
pub(crate) struct Link {
    role: &'static str,
    dialer: Arc<Dialer>,
    entropy: Arc<dyn Entropy>,
    metrics: Metrics,
    state: Mutex<State>,
    changed: Notify,
    /// Of all links to the broker: that one of them was connected, so that the others need not wait.
    answers: Arc<Notify>,
    /// Whether a message that cannot be read is to be got over fast.
    hurries: bool,
}

impl Link {
    pub(crate) fn new(
        role: &'static str,
        dialer: Arc<Dialer>,
        entropy: Arc<dyn Entropy>,
        metrics: Metrics,
        answers: Arc<Notify>,
        hurries: bool,
    ) -> Arc<Self> {
        let (state, changed) = (Mutex::default(), Notify::new());
        Arc::new(Self { role, dialer, entropy, metrics, state, changed, answers, hurries })
    }

    /// The connection that stands; waits for it until `deadline`, and no longer than [`PATIENCE`] after it was lost.
    pub(crate) async fn live(&self, deadline: Instant) -> Result<Arc<Live>> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let until = {
                let mut state = self.lock();
                if state.closed {
                    return Err(failure::closed());
                }
                if let Some(live) = state.live.as_ref().filter(|live| live.is_connected()) {
                    return Ok(Arc::clone(live));
                }
                if !state.wanted {
                    state.wanted = true;
                    self.changed.notify_waiters();
                }
                let since = *state.down_since.get_or_insert_with(Instant::now);
                let until = deadline.min(since + PATIENCE);
                if until <= Instant::now() {
                    return Err(state.why_not());
                }
                until
            };
            let _ = timeout_at(until, changed).await;
        }
    }

    /// Until when whoever consumes over it should take one message at a time: what else is handed out is counted as often as
    /// the message that ends its connections, and would be taken along.
    pub(crate) fn cautious_until(&self) -> Option<Instant> {
        let state = self.lock();
        let until = state.live.as_ref()?.born + CAUTIOUS;
        (state.unreadable && until > Instant::now()).then_some(until)
    }

    /// Why it does not stand; none when it does.
    pub(crate) fn why_not(&self) -> Option<Error> {
        let state = self.lock();
        let stands = state.live.as_ref().is_some_and(|live| live.is_connected());
        (!stands).then(|| state.why_not())
    }

    /// The number of the connection that stands.
    pub(crate) fn epoch(&self) -> Option<u64> {
        let state = self.lock();
        state.live.as_ref().filter(|live| live.is_connected()).map(|live| live.epoch)
    }

    /// Asks for it to be made, without waiting.
    pub(crate) fn want(&self) {
        let mut state = self.lock();
        state.wanted = true;
        state.down_since.get_or_insert_with(Instant::now);
        self.changed.notify_waiters();
    }

    pub(crate) fn condition(&self) -> Condition {
        let state = self.lock();
        if state.closed {
            return Condition::Down("the bus is closed".to_owned());
        }
        if let Some(live) = state.live.as_ref().filter(|live| live.is_connected()) {
            return live.blocked().map_or(Condition::Up, Condition::Blocked);
        }
        match (&state.why, state.wanted) {
            (Some(error), _) => Condition::Down(error.context.clone()),
            (None, true) => Condition::Down("not connected yet".to_owned()),
            (None, false) => Condition::Unused,
        }
    }

    /// Keeps it standing until `stop`; then closes it.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let running = stop.run_until_cancelled(self.keep());
        running.await;
        let live = {
            let mut state = self.lock();
            state.closed = true;
            state.live.take()
        };
        self.changed.notify_waiters();
        if let Some(live) = live {
            live.close().await;
        }
    }

    async fn keep(&self) {
        self.asked_for().await;
        let mut attempt: u32 = 0;
        loop {
            let backoff = match self.dialer.dial(self.role).await {
                Ok((connection, socket)) => {
                    let began = Instant::now();
                    let epoch = self.metrics.connected(self.role);
                    let live =
                        Arc::new(Live { epoch, born: began, connection, socket, blocked: Mutex::default() });
                    self.up(&live);
                    let why = live.ended().await;
                    // The thread of a connection that a frozen broker holds ends by this.
                    live.socket.end();
                    let unreadable = why.as_ref().is_some_and(failure::is_unreadable);
                    self.lost(why, unreadable);
                    if began.elapsed() >= LIVED {
                        attempt = 0;
                    }
                    // On the link of the safety nets, from which nothing moves it away, there is no hurry.
                    if unreadable && self.hurries { UNREADABLE } else { AWAY }
                }
                Err(error) => {
                    let backoff = if error.kind == ErrorKind::Misconfigured { REFUSED } else { AWAY };
                    self.failed(error);
                    backoff
                }
            };
            attempt = attempt.saturating_add(1);
            let _ = timeout(backoff.wait(attempt, &*self.entropy), self.answers.notified()).await;
        }
    }

    async fn asked_for(&self) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if self.lock().wanted {
                return;
            }
            changed.await;
        }
    }

    fn up(&self, live: &Arc<Live>) {
        let (after_s, again) = {
            let mut state = self.lock();
            state.live = Some(Arc::clone(live));
            state.why = None;
            let after_s = state.down_since.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
            (after_s, state.unreadable)
        };
        if again {
            tracing::debug!(role = self.role, after_s, "connected to the broker");
        } else {
            tracing::info!(role = self.role, after_s, "connected to the broker");
        }
        self.answers.notify_waiters();
        self.changed.notify_waiters();
    }

    fn lost(&self, why: Option<lapin::Error>, unreadable: bool) {
        let error = failure::connection_lost(why);
        let mut state = self.lock();
        // A thousand times in a row: said once.
        if unreadable && state.unreadable {
            tracing::debug!(role = self.role, error = error.chain(), "connecting again");
        } else {
            tracing::warn!(role = self.role, error = error.chain(), "connecting again");
        }
        state.unreadable = unreadable;
        state.live = None;
        state.down_since = Some(Instant::now());
        state.why = Some(error);
    }

    /// Said once for each reason, however often it is tried.
    fn failed(&self, error: Error) {
        let mut state = self.lock();
        let known =
            state.why.as_ref().is_some_and(|why| (why.kind, &why.context) == (error.kind, &error.context));
        if known {
            tracing::debug!(role = self.role, error = error.chain(), "still not connected to the broker");
        } else {
            tracing::warn!(
                role = self.role,
                error = error.chain(),
                "not connected to the broker; trying again"
            );
        }
        state.down_since.get_or_insert_with(Instant::now);
        state.why = Some(error);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
