//! Scripted faults: decorators that implement the ports and let calls fail as a seeded script says. They pass the
//! suites while they inject nothing, and while they only slow.

mod bus;
mod changes;
mod mail;
mod records;

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidings_domain::{Error, Result};

pub use mail::{FaultyMail, MailFault, MailFaults, MailRates};

use crate::{Event, Recorder, SeededEntropy};

/// What happens to one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// It fails before its effect: *transient*.
    Reject,
    /// It fails after its effect, the answer is lost: *unknown*.
    FailAfterWrite,
    /// Nothing can be tried: *unavailable*.
    Unavailable,
    /// Its effect comes at once and its answer late.
    Hold,
    /// It begins late.
    Slow,
    /// It is done twice: what was published comes twice. Calls other than a publish go on as they are.
    Duplicate,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Reject, Self::FailAfterWrite, Self::Unavailable, Self::Hold, Self::Slow, Self::Duplicate];
}

/// Which share of calls each fault hits, and how long one is held or slowed at most.
#[derive(Clone, Debug, Default)]
pub struct Rates {
    /// Shares of all calls; those that are absent are 0.
    pub shares: Vec<(Fault, f64)>,
    /// The longest wait of a fault that waits.
    pub longest: Duration,
}

/// A seeded script of faults, shared by the decorators that were made with it. Clones are the same script.
#[derive(Clone)]
pub struct Faults {
    inner: Arc<Inner>,
}

struct Inner {
    entropy: SeededEntropy,
    rates: Mutex<Rates>,
    recorder: Recorder,
}

/// A port with faults before it.
pub struct Faulty<P: ?Sized> {
    pub(crate) inner: Arc<P>,
    pub(crate) faults: Faults,
}

impl<P: ?Sized> Faulty<P> {
    /// `port` with the faults of `faults`.
    pub fn new(port: Arc<P>, faults: &Faults) -> Self {
        Self { inner: port, faults: faults.clone() }
    }
}

impl Faults {
    /// A script of `seed`; what it does is taken down by `recorder`.
    pub fn new(seed: u64, rates: Rates, recorder: Recorder) -> Self {
        Self {
            inner: Arc::new(Inner { entropy: SeededEntropy::new(seed), rates: Mutex::new(rates), recorder }),
        }
    }

    /// From now on these; `Rates::default()` ends all faults.
    pub fn set(&self, rates: Rates) {
        *self.rates() = rates;
    }

    fn rates(&self) -> MutexGuard<'_, Rates> {
        self.inner.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to the next call, of `operation`.
    pub(crate) fn decide(&self, operation: &'static str) -> Option<Fault> {
        let shares = self.rates().shares.clone();
        let hit = shares.into_iter().find(|(_, share)| self.inner.entropy.happens(*share));
        let (fault, _) = hit?;
        self.inner.recorder.record(Event::World(format!("fault {fault:?} of {operation}")));
        Some(fault)
    }

    pub(crate) async fn wait(&self) {
        let longest_ms = u64::try_from(self.rates().longest.as_millis()).unwrap_or(u64::MAX);
        let wait_ms = self.inner.entropy.below(longest_ms.saturating_add(1));
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }

    /// One call under the script: `call` is not begun where it fails before its effect.
    pub(crate) async fn call<T>(
        &self,
        operation: &'static str,
        call: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        match self.decide(operation) {
            Some(Fault::Reject) => Err(rejected(operation)),
            Some(Fault::Unavailable) => Err(unavailable(operation)),
            Some(Fault::FailAfterWrite) => {
                call.await?;
                Err(lost_answer(operation))
            }
            Some(Fault::Slow) => {
                self.wait().await;
                call.await
            }
            Some(Fault::Hold) => {
                let answer = call.await;
                self.wait().await;
                answer
            }
            Some(Fault::Duplicate) | None => call.await,
        }
    }
}

pub(crate) fn rejected(operation: &str) -> Error {
    Error::transient(format!("{operation}: a fault by the script, before its effect"))
}

pub(crate) fn unavailable(operation: &str) -> Error {
    Error::unavailable(format!("{operation}: away by the script"))
}

pub(crate) fn lost_answer(operation: &str) -> Error {
    Error::unknown(format!("{operation}: the answer is lost by the script, after its effect"))
}

#[cfg(test)]
mod tests;
