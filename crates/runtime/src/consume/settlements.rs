//! Settlements, gathered: while one call is under way the next ones wait and go together.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use tidings_domain::{
    Error, ErrorKind, Result,
    ports::{Consumer, Lease, Settlement},
};

/// The most settlements of one call.
const MOST: usize = 1000;

type Answers = Vec<Result<()>>;

/// What waits to be settled and what is.
#[derive(Default)]
pub(super) struct Settlements {
    waiting: Vec<(Lease, Settlement)>,
    /// How many of the call under way say done (those come first), and the call.
    under_way: Option<(usize, BoxFuture<'static, Answers>)>,
}

/// What a call came to.
#[derive(Debug, Default)]
pub(super) struct Settled {
    /// Messages that are gone from the queue.
    pub(super) done: usize,
    /// Leases that had been lost.
    pub(super) lost: u64,
    /// Other failures.
    pub(super) failed: u64,
    /// The first of them.
    pub(super) error: Option<Error>,
}

impl Settlements {
    pub(super) fn push(&mut self, lease: Lease, settlement: Settlement) {
        self.waiting.push((lease, settlement));
    }

    /// Begins a call when there is something to settle and none is under way.
    pub(super) fn begin(&mut self, consumer: &Arc<dyn Consumer>) {
        if self.under_way.is_some() || self.waiting.is_empty() {
            return;
        }
        let rest = self.waiting.split_off(self.waiting.len().min(MOST));
        let mut batch = std::mem::replace(&mut self.waiting, rest);
        batch.sort_by_key(|(_, settlement)| *settlement != Settlement::Done);
        let done = batch.iter().filter(|(_, settlement)| *settlement == Settlement::Done).count();
        let consumer = Arc::clone(consumer);
        self.under_way = Some((done, async move { consumer.settle(batch).await }.boxed()));
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_none()
    }

    /// Waits for the call under way; for ever when there is none. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Settled {
        let Some((done, call)) = &mut self.under_way else { return std::future::pending().await };
        let (done, answers) = (*done, call.await);
        self.under_way = None;
        count(done, answers)
    }
}

/// Counts answers, the first `done` of which are of messages that are dealt with.
fn count(done: usize, answers: Answers) -> Settled {
    let done = answers.iter().take(done).filter(|answer| answer.is_ok()).count();
    let mut settled = Settled { done, ..Settled::default() };
    for error in answers.into_iter().filter_map(Result::err) {
        if error.kind == ErrorKind::LeaseLost {
            settled.lost += 1;
        } else {
            settled.failed += 1;
            settled.error.get_or_insert(error);
        }
    }
    settled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_lease_is_no_failure() {
        let settled =
            count(2, vec![Ok(()), Err(Error::lease_lost("x")), Err(Error::unavailable("y")), Ok(())]);
        assert_eq!((settled.done, settled.lost, settled.failed), (1, 1, 1));
        assert_eq!(settled.error.unwrap().kind, ErrorKind::Unavailable);
    }
}
