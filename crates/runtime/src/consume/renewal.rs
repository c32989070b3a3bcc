//! Renewing the leases of what is in hand, at a third of their time.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use tidings_domain::{
    Error, ErrorKind, Result,
    ports::{Consumer, Lease},
};
use tokio::time::Instant;

type Extended = (Vec<Lease>, Vec<Result<()>>);

/// When leases are to be renewed, and the call that does it.
pub(super) struct Renewal {
    /// None where leases last as long as the connection.
    every: Option<Duration>,
    due: Instant,
    under_way: Option<BoxFuture<'static, Extended>>,
}

/// What a call came to.
#[derive(Debug)]
pub(super) struct Renewed {
    /// Leases that someone else may hold.
    pub(super) lost: Vec<Lease>,
    /// Another failure; there may be time for another call.
    pub(super) failure: Option<Error>,
}

impl Renewal {
    /// For leases that last so long.
    pub(super) fn new(lease: Option<Duration>) -> Self {
        Self { every: lease.map(|lease| lease / 3), due: Instant::now(), under_way: None }
    }

    /// Whether leases can be lost while they are held.
    pub(super) fn is_needed(&self) -> bool {
        self.every.is_some()
    }

    /// Something is in hand from `now` on, and nothing was before.
    pub(super) fn starts(&mut self, now: Instant) {
        if let Some(every) = self.every {
            self.due = now + every;
        }
    }

    /// When it is due, unless a call is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        (self.every.is_some() && self.under_way.is_none()).then_some(self.due)
    }

    /// Begins a call for `leases` when it is due.
    pub(super) fn begin(&mut self, leases: impl FnOnce() -> Vec<Lease>, consumer: &Arc<dyn Consumer>) {
        let now = Instant::now();
        if self.due().is_none_or(|due| now < due) {
            return;
        }
        self.starts(now);
        let leases = leases();
        if leases.is_empty() {
            return;
        }
        let consumer = Arc::clone(consumer);
        let extending = async move {
            let answers = consumer.extend(&leases).await;
            (leases, answers)
        };
        self.under_way = Some(extending.boxed());
    }

    /// Waits for the call under way; for ever when there is none. Cancel-safe.
    pub(super) async fn ended(&mut self) -> Renewed {
        let Some(call) = &mut self.under_way else { return std::future::pending().await };
        let (leases, answers) = call.await;
        self.under_way = None;
        let mut renewed = Renewed { lost: Vec::new(), failure: None };
        for (lease, answer) in leases.into_iter().zip(answers) {
            match answer {
                Ok(()) => {}
                Err(error) if error.kind == ErrorKind::LeaseLost => renewed.lost.push(lease),
                Err(error) => renewed.failure = Some(error),
            }
        }
        renewed
    }
}
