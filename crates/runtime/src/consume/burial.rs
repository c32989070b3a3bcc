//! Messages on their way to the dead letters.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use tidings_domain::{
    Error, ErrorKind, Result,
    dead_letter::{DeadLetter, reason},
    ports::{DeadLetters, Lease},
};

use super::{ConsumeLoop, context, entry::Entry};
use crate::{handler::Reject, letter, telemetry};

/// Messages whose dead letters were written, or could not be.
pub(super) struct Burial {
    /// Their leases and reasons.
    pub(super) entries: Vec<(Lease, &'static str)>,
    pub(super) result: Result<()>,
}

/// Puts the dead letters of messages; only then may these be settled.
pub(super) fn bury(of: &ConsumeLoop, dead: Vec<(Entry, Reject)>) -> BoxFuture<'static, Burial> {
    let mut entries = Vec::with_capacity(dead.len());
    let mut letters = Vec::with_capacity(dead.len());
    for (mut entry, reject) in dead {
        let attempts = match reject.reason {
            reason::RETURNED_TOO_OFTEN => entry.received.returns,
            _ => entry.state.attempts + 1,
        };
        // Its lines belong to its own span, which ends here.
        let _lines = telemetry::enter(&context(&entry.received.envelope.headers));
        entry.give_up(reject.reason, &reject.detail, attempts);
        let letter =
            letter::of_received(of.source, &entry.received, &reject, attempts, &*of.clock, &*of.entropy);
        let id = letter.message_id.map(tracing::field::display);
        let (name, reason, detail) = (of.name, reject.reason, &*reject.detail);
        tracing::warn!(name, message_id = id, reason, detail, attempts, "a dead letter");
        entries.push((entry.lease(), reject.reason));
        letters.push(letter);
    }
    let dead_letters = Arc::clone(&of.dead_letters);
    async move { Burial { entries, result: put(&*dead_letters, letters).await } }.boxed()
}

/// Writes letters; where the store refuses the group, each by itself, so that one does not hold up the others.
async fn put(dead_letters: &dyn DeadLetters, letters: Vec<DeadLetter>) -> Result<()> {
    if letters.len() == 1 {
        return dead_letters.put(letters).await;
    }
    match dead_letters.put(letters.clone()).await {
        Err(Error { kind: ErrorKind::Rejected, .. }) => {}
        result => return result,
    }
    for letter in letters {
        dead_letters.put(vec![letter]).await?;
    }
    Ok(())
}
