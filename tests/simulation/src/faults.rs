//! Faults: what a port call of a service may meet, drawn from the seed. A decorator per port, each named after it.

mod bus;
mod catalog;
mod changes;
mod dead_letters;
mod deliveries;
mod items;
mod limits;
mod mail;
mod subscriptions;
mod topology;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidings_domain::{Error, Result};
use tidings_memory::{Event, Recorder, SeededEntropy};
use tokio::sync::mpsc;

use crate::role::Instance;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The call fails for now and has no effect.
    Reject,
    /// The effect happens and its answer is lost.
    Unknown,
    /// The call hangs for so long that leases run out; then it is answered, or nobody knows.
    Hold,
    /// The call takes long.
    Slow,
    /// The bus takes a message twice.
    Duplicate,
    /// The server is away for this call.
    Unavailable,
    /// The process ends at this call, before its effect or between it and the answer.
    Crash,
    /// The mail server cannot be reached.
    MailUnavailable,
    /// The mail server says 4xx.
    MailTransient,
    /// The mail server says 5xx.
    MailPermanent,
    /// The connection ends after the mail was begun; the server may have taken it.
    MailDrop,
    /// The mail server says nothing for long.
    MailHang,
    /// The mailer's process ends while a mail is under way, taken or not.
    MailCrash,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Reject,
        Self::Unknown,
        Self::Hold,
        Self::Slow,
        Self::Duplicate,
        Self::Unavailable,
        Self::Crash,
        Self::MailUnavailable,
        Self::MailTransient,
        Self::MailPermanent,
        Self::MailDrop,
        Self::MailHang,
        Self::MailCrash,
    ];

    /// The highest rate that a seed gives it, in millionths of calls.
    pub fn most(self) -> u64 {
        match self {
            Self::Reject => 300_000,
            Self::Unknown | Self::Slow | Self::Unavailable => 60_000,
            Self::Hold => 4_000,
            Self::Crash => 15_000,
            Self::MailCrash => 80_000,
            _ => 250_000,
        }
    }
}

/// What a text holds that the store refuses for ever, alone and in a batch.
pub(crate) const POISON: &str = "poison";

/// A process that is to end at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CrashSignal {
    /// Which process.
    pub instance: Instance,
    /// In which of its lives.
    pub life: u64,
}

/// All faults of a run. Clones are the same.
#[derive(Clone)]
pub(crate) struct Faults(Arc<Inner>);

struct Inner {
    rates: BTreeMap<Kind, u64>,
    chance: SeededEntropy,
    recorder: Recorder,
    crashes: mpsc::UnboundedSender<CrashSignal>,
    state: Mutex<State>,
}

struct State {
    on: bool,
    mail_away: bool,
    crashes_left: u64,
    counts: BTreeMap<Kind, u64>,
    mail_failures: BTreeMap<String, u64>,
}

impl Faults {
    /// Faults at `rates`, in millionths of calls; none before [`Faults::set_on`].
    pub(crate) fn new(
        rates: BTreeMap<Kind, u64>,
        max_crashes: u64,
        chance: SeededEntropy,
        recorder: Recorder,
        crashes: mpsc::UnboundedSender<CrashSignal>,
    ) -> Self {
        let state = State {
            on: false,
            mail_away: false,
            crashes_left: max_crashes,
            counts: BTreeMap::new(),
            mail_failures: BTreeMap::new(),
        };
        Self(Arc::new(Inner { rates, chance, recorder, crashes, state: Mutex::new(state) }))
    }

    /// Begins or ends all of them.
    pub(crate) fn set_on(&self, on: bool) {
        self.lock().on = on;
    }

    /// The mail server cannot be reached by anyone, or can again.
    pub(crate) fn set_mail_away(&self, away: bool) {
        self.lock().mail_away = away;
    }

    /// How many of each kind there were.
    pub(crate) fn counts(&self) -> BTreeMap<Kind, u64> {
        self.lock().counts.clone()
    }

    /// How often each address met a failure that counts as an attempt.
    pub(crate) fn mail_failures(&self) -> BTreeMap<String, u64> {
        self.lock().mail_failures.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this call meets `kind`.
    fn meets(&self, kind: Kind, what: &str, instance: Instance) -> bool {
        let Some(rate) = self.0.rates.get(&kind) else { return false };
        let mut state = self.lock();
        if !state.on || self.0.chance.below(1_000_000) >= *rate {
            return false;
        }
        if matches!(kind, Kind::Crash | Kind::MailCrash) {
            if state.crashes_left == 0 {
                return false;
            }
            state.crashes_left -= 1;
        }
        *state.counts.entry(kind).or_default() += 1;
        drop(state);
        self.0.recorder.record(Event::World(format!("fault {kind:?} at {what} of {instance}")));
        true
    }

    fn between(&self, first_ms: u64, last_ms: u64) -> Duration {
        Duration::from_millis(first_ms + self.0.chance.below(last_ms - first_ms + 1))
    }

    fn coin(&self) -> bool {
        self.0.chance.below(2) == 0
    }
}

/// What one life of one service calls its ports through.
#[derive(Clone)]
pub(crate) struct Line {
    /// The faults of the run.
    pub faults: Faults,
    /// Which process calls.
    pub instance: Instance,
    /// In which of its lives.
    pub life: u64,
}

impl Line {
    fn meets(&self, kind: Kind, what: &str) -> bool {
        self.faults.meets(kind, what, self.instance)
    }

    /// Makes `call`, or lets it meet a fault.
    async fn call<T>(&self, what: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        if self.meets(Kind::Crash, what) {
            if self.faults.coin() {
                let _lost = call.await;
            }
            return self.crash().await;
        }
        if self.meets(Kind::Unavailable, what) {
            return Err(Error::unavailable(format!("{what}: the server is away")));
        }
        if self.meets(Kind::Reject, what) {
            return Err(Error::transient(format!("{what}: not now")));
        }
        self.wait(what).await?;
        if self.meets(Kind::Unknown, what) {
            call.await?;
            return Err(Error::unknown(format!("{what}: the answer was lost")));
        }
        call.await
    }

    /// Meets what takes time, if it does.
    async fn wait(&self, what: &'static str) -> Result<()> {
        if self.meets(Kind::Slow, what) {
            tokio::time::sleep(self.faults.between(20, 1_500)).await;
        }
        if self.meets(Kind::Hold, what) {
            tokio::time::sleep(self.faults.between(3_000, 25_000)).await;
            if self.faults.coin() {
                return Err(Error::unknown(format!("{what}: no answer in time")));
            }
        }
        Ok(())
    }

    /// The process ends here: nothing of it goes on after this.
    async fn crash<T>(&self) -> T {
        let _gone = self.faults.0.crashes.send(CrashSignal { instance: self.instance, life: self.life });
        std::future::pending().await
    }
}

/// A port behind a line.
pub(crate) struct Faulty<P: ?Sized> {
    inner: Arc<P>,
    line: Line,
}

impl<P: ?Sized> Faulty<P> {
    /// `inner` as it is reached through `line`.
    pub(crate) fn new(inner: Arc<P>, line: &Line) -> Arc<Self> {
        Arc::new(Self { inner, line: line.clone() })
    }
}
