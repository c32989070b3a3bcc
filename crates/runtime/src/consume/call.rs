//! One handler call, its panics caught.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use tidings_domain::{ports::Received, trace_context::TraceContext};
use tokio::time::Instant;

use super::{
    attempts::Outcome,
    context,
    entry::{Entry, State},
};
use crate::{handler::Handler, supervise::panic_text, telemetry::within};

/// A call that ended.
pub(super) struct Finished {
    pub(super) entries: Vec<Entry>,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
    pub(super) alone: bool,
}

/// Calls `handler` with `entries`.
pub(super) fn call(
    handler: Arc<dyn Handler>,
    entries: Vec<Entry>,
    alone: bool,
) -> BoxFuture<'static, Finished> {
    let began = Instant::now();
    let (batch, states): (Vec<Received>, Vec<State>) =
        entries.into_iter().map(|entry| (entry.received, entry.state)).unzip();
    async move {
        // Of one message alone it can be said which trace the lines of its handling belong to.
        let trace = match batch.as_slice() {
            [one] => context(&one.envelope.headers),
            _ => TraceContext::default(),
        };
        let handling = AssertUnwindSafe(within(&trace, async { handler.handle(&batch).await }));
        let outcome = match handling.catch_unwind().await {
            Ok(verdicts) => Outcome::Verdicts(verdicts),
            Err(panic) => Outcome::Panicked(panic_text(&*panic)),
        };
        let entry = |(received, state)| Entry { received, state };
        let entries = batch.into_iter().zip(states).map(entry).collect();
        Finished { entries, outcome, took: began.elapsed(), alone }
    }
    .boxed()
}
