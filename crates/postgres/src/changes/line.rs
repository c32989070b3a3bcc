//! What the two tasks of an open stream and its reader share.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidings_domain::{
    Error, ErrorKind, Result,
    ports::{Captured, DependencyState, Position},
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    ledger::{Ledger, Progress},
    reader::Batch,
    state::StreamHealth,
};

/// Bytes of changes that are read ahead; one more reading may come on top.
const READ_AHEAD_BYTES: u64 = 8 * 1024 * 1024;

/// Within this time of the last record, confirms are recorded together, and none waits for that: a crash publishes that much
/// once more. Under load a record is a small part of what the server writes.
const GATHER: Duration = Duration::from_millis(200);

/// The same while everything that was handed out is confirmed: there is time.
const GATHER_AT_REST: Duration = Duration::from_millis(50);

/// How long a confirm waits for its record.
const RECORD_LIMIT: Duration = Duration::from_secs(5);

/// The limits of an open stream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Changes that are read ahead.
    pub(crate) read_ahead: usize,
    /// How long nothing may be heard.
    pub(crate) silence: Duration,
    /// How long nothing may be confirmed.
    pub(crate) stall: Duration,
}

/// Shared by the pump, the keeper and the stream.
pub(crate) struct Line {
    state: Mutex<State>,
    limits: Limits,
    health: std::sync::Arc<StreamHealth>,
    /// Something came, or it ended.
    came: Notify,
    /// There is room again, or something was recorded: for the pump.
    pub(crate) work: Notify,
    /// Something is to be recorded: for the keeper.
    pub(crate) wanted: Notify,
    /// Something was recorded, or it ended.
    recorded: Notify,
    /// The stream was dropped: what is confirmed is recorded and reported, then all ends.
    pub(crate) closing: CancellationToken,
    /// It has ended with an error.
    pub(crate) over: CancellationToken,
}

struct State {
    queue: VecDeque<Captured>,
    bytes: u64,
    ledger: Ledger,
    /// The last offset that was handed out, and the last that was confirmed.
    handed: u64,
    confirmed: u64,
    /// Counts up with the ledger's progress; what of it the row holds, and which progress that is.
    version: u64,
    recorded_version: u64,
    recorded: Progress,
    /// When the last record was begun, and whether somebody waits for the next.
    record_began: Option<Instant>,
    want: Want,
    ended: Option<Error>,
    /// When the pump last looked at the time: where that is long ago, this process stood still.
    looked_at: Instant,
    /// The last sign of life of the server.
    life_at: Instant,
    /// The last confirm, or the first hand-out after everything was confirmed.
    moved_at: Instant,
}

/// Whether something is to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Want {
    /// Nothing but what comes with the next heartbeat.
    Nothing,
    /// At this time, unless it is done before.
    Later(Instant),
    /// Somebody waits.
    Now,
}

impl Line {
    pub(crate) fn new(progress: Progress, limits: Limits, health: std::sync::Arc<StreamHealth>) -> Self {
        let now = Instant::now();
        let state = State {
            queue: VecDeque::new(),
            bytes: 0,
            ledger: Ledger::new(progress),
            handed: 0,
            confirmed: 0,
            version: 0,
            recorded_version: 0,
            recorded: progress,
            record_began: None,
            want: Want::Nothing,
            ended: None,
            looked_at: now,
            life_at: now,
            moved_at: now,
        };
        Self {
            state: Mutex::new(state),
            limits,
            health,
            came: Notify::new(),
            work: Notify::new(),
            wanted: Notify::new(),
            recorded: Notify::new(),
            closing: CancellationToken::new(),
            over: CancellationToken::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- For whoever reads the stream.

    /// Hands out up to `max`; waits up to `wait` for the first. Nothing is taken before all waiting is over.
    pub(crate) async fn next(&self, max: usize, wait: Duration) -> Result<Vec<Captured>> {
        let deadline = Instant::now() + wait;
        loop {
            let came = self.came.notified();
            tokio::pin!(came);
            came.as_mut().enable();
            let taken = self.take(max)?;
            if !taken.is_empty() || max == 0 || timeout_at(deadline, came).await.is_err() {
                return Ok(taken);
            }
        }
    }

    fn take(&self, max: usize) -> Result<Vec<Captured>> {
        self.has_stood_still()?;
        let mut state = self.lock();
        state.check()?;
        let count = max.min(state.queue.len());
        let taken: Vec<_> = state.queue.drain(..count).collect();
        if let Some(last) = taken.last() {
            if state.handed == state.confirmed {
                state.moved_at = Instant::now();
            }
            state.handed = last.position.offset;
            let had_room = state.has_room(&self.limits);
            state.bytes = state.bytes.saturating_sub(taken.iter().map(size_bytes).sum());
            if !had_room {
                self.work.notify_one();
            }
        }
        Ok(taken)
    }

    /// Confirms everything up to `up_to`. Ok where it is recorded, or will be soon.
    pub(crate) async fn confirm(&self, up_to: Position) -> Result<()> {
        self.has_stood_still()?;
        let (version, waits) = {
            let mut state = self.lock();
            state.check()?;
            let offset = up_to.offset.min(state.handed);
            if offset > state.confirmed {
                state.confirmed = offset;
                state.moved_at = Instant::now();
                state.advance(|ledger| ledger.confirm(offset));
            }
            if state.version == state.recorded_version {
                return Ok(());
            }
            let gather = if state.confirmed == state.handed { GATHER_AT_REST } else { GATHER };
            let soon = state.record_began.map(|began| began + gather).filter(|soon| *soon > Instant::now());
            state.want = match (state.want, soon) {
                (_, None) | (Want::Now, _) => Want::Now,
                (Want::Later(sooner), Some(soon)) => Want::Later(sooner.min(soon)),
                (Want::Nothing, Some(soon)) => Want::Later(soon),
            };
            let waits = soon.is_none();
            (state.version, waits)
        };
        self.wanted.notify_one();
        match waits {
            true => self.recorded(version).await,
            false => Ok(()),
        }
    }

    /// Waits until the row holds `version`.
    pub(crate) async fn recorded(&self, version: u64) -> Result<()> {
        let deadline = Instant::now() + RECORD_LIMIT;
        loop {
            let recorded = self.recorded.notified();
            tokio::pin!(recorded);
            recorded.as_mut().enable();
            {
                let state = self.lock();
                if state.recorded_version >= version {
                    return Ok(());
                }
                state.check()?;
            }
            if timeout_at(deadline, recorded).await.is_err() {
                return Err(Error::unknown("record the stream's position: no answer in time"));
            }
        }
    }

    /// The version of what is confirmed now.
    pub(crate) fn version(&self) -> u64 {
        self.lock().version
    }

    /// Read and not confirmed; and the latest time of storing among what is confirmed.
    pub(crate) fn unconfirmed(&self) -> (u64, Progress) {
        let state = self.lock();
        (state.ledger.unconfirmed(), state.ledger.progress())
    }

    /// Whether the slot is still ours, as far as is known without asking: for whoever is about to publish.
    pub(crate) fn is_held(&self) -> Result<()> {
        self.has_stood_still()?;
        self.lock().check()
    }

    /// Whether this process stood still for so long that another may have taken the slot over: nothing is handed out,
    /// published or confirmed then, and the stream ends.
    fn has_stood_still(&self) -> Result<()> {
        let looked_at = self.lock().looked_at;
        match looked_at.elapsed() > self.limits.silence {
            false => Ok(()),
            true => {
                self.end(stood_still(looked_at.elapsed()));
                self.lock().check()
            }
        }
    }

    // ---- For the pump.

    /// Whether more may be read.
    pub(crate) fn has_room(&self) -> bool {
        self.lock().has_room(&self.limits)
    }

    /// Takes what was read; `batch` is emptied.
    pub(crate) fn push(&self, batch: &mut Batch) {
        let came = !batch.captured.is_empty();
        let mut state = self.lock();
        state.life_at = Instant::now();
        if state.ended.is_some() {
            return;
        }
        state.queue.extend(batch.captured.drain(..));
        state.bytes += std::mem::take(&mut batch.bytes);
        state.advance(|ledger| batch.marks.drain(..).for_each(|mark| ledger.mark(mark)));
        let asked = std::mem::take(&mut batch.is_asked) && state.version != state.recorded_version;
        if asked {
            state.want = Want::Now;
        }
        drop(state);
        if came {
            self.came.notify_one();
        }
        if asked {
            self.wanted.notify_one();
        }
    }

    /// Looks at the time; ends the stream where a limit is passed.
    pub(crate) fn look(&self) {
        let now = Instant::now();
        let error = {
            let mut state = self.lock();
            let stood = now - state.looked_at;
            // Left as it is where that was too long: whoever asks before the stream has ended here is to see it too.
            if stood <= self.limits.silence {
                state.looked_at = now;
            }
            let silent = now - state.life_at;
            let stalled = now - state.moved_at;
            if stood > self.limits.silence {
                stood_still(stood)
            } else if silent > self.limits.silence {
                Error::unavailable(format!("read the table stream: the server was silent for {silent:.0?}"))
            } else if state.handed > state.confirmed && stalled > self.limits.stall {
                Error::unavailable(format!(
                    "read the table stream: nothing was confirmed for {stalled:.0?}, and the slot was given back so that \
                     the server may stop: it keeps the position"
                ))
            } else {
                return;
            }
        };
        self.end(error);
    }

    /// What may be reported to the server.
    pub(crate) fn reportable(&self) -> Progress {
        self.lock().recorded
    }

    // ---- For the keeper.

    /// What is to be recorded when.
    pub(crate) fn want(&self) -> Want {
        self.lock().want
    }

    /// What to record now, and its version.
    pub(crate) fn to_record(&self) -> (Progress, u64) {
        let mut state = self.lock();
        // One that comes with a heartbeat is nobody's.
        if state.want != Want::Nothing {
            state.record_began = Some(Instant::now());
        }
        state.want = Want::Nothing;
        (state.ledger.progress(), state.version)
    }

    /// It is recorded.
    pub(crate) fn has_recorded(&self, progress: Progress, version: u64) {
        let mut state = self.lock();
        state.recorded = progress;
        state.recorded_version = state.recorded_version.max(version);
        drop(state);
        self.recorded.notify_waiters();
        self.work.notify_one();
    }

    /// It is not: again at this time.
    pub(crate) fn has_not_recorded(&self, again: Instant) {
        let mut state = self.lock();
        if state.version != state.recorded_version {
            state.want = Want::Later(again);
        }
    }

    /// The server has shown that it hears us.
    pub(crate) fn is_alive(&self) {
        self.lock().life_at = Instant::now();
    }

    // ---- For all.

    /// Ends the stream: what is read and not handed out is dropped. The first error stays.
    pub(crate) fn end(&self, error: Error) {
        let mut state = self.lock();
        if state.ended.is_none() {
            if !self.closing.is_cancelled() {
                tracing::warn!(error = error.chain(), "the table stream ended");
                self.health.set(DependencyState::Down(error.chain()));
            }
            state.queue.clear();
            state.bytes = 0;
            state.ended = Some(error);
        }
        drop(state);
        self.over.cancel();
        self.came.notify_one();
        self.recorded.notify_waiters();
    }
}

#[cfg(test)]
impl Line {
    /// As if this process had stood still for so long.
    pub(crate) fn stand_still(&self, time: Duration) {
        let mut state = self.lock();
        state.looked_at -= time;
        state.life_at -= time;
    }
}

impl State {
    fn check(&self) -> Result<()> {
        self.ended.as_ref().map_or(Ok(()), |error| Err(error.copy()))
    }

    fn has_room(&self, limits: &Limits) -> bool {
        self.queue.len() < limits.read_ahead.max(1) && self.bytes < READ_AHEAD_BYTES
    }

    fn advance(&mut self, change: impl FnOnce(&mut Ledger)) {
        let before = self.ledger.progress();
        change(&mut self.ledger);
        if self.ledger.progress() != before {
            self.version += 1;
        }
    }
}

fn stood_still(stood: Duration) -> Error {
    Error::new(
        ErrorKind::LeaseLost,
        format!(
            "read the table stream: this process stood still for {stood:.0?}, and another may read the slot now"
        ),
    )
}

fn size_bytes(captured: &Captured) -> u64 {
    captured.content.as_ref().map_or_else(|row| row.bytes.len() as u64, |change| change.size_bytes)
}
