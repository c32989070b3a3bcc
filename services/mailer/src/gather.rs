//! Gathering: many tasks each want one row written, and one call writes all that are waiting. While a call is under
//! way the next batch fills, so that nothing waits for company.

use std::future::Future;

use tidings_domain::{Error, Result};
use tokio::sync::{mpsc, oneshot};

type Entry<I, O> = (I, oneshot::Sender<Result<O>>);

/// Where entries are handed in. Clones are the same.
pub(crate) struct Gather<I, O> {
    entries: mpsc::Sender<Entry<I, O>>,
}

impl<I, O> Clone for Gather<I, O> {
    fn clone(&self) -> Self {
        Self { entries: self.entries.clone() }
    }
}

impl<I, O> Gather<I, O> {
    /// Its answer in the batch that `entry` came into. *Unknown* when the gatherer ended with the entry under way.
    pub(crate) async fn call(&self, entry: I) -> Result<O> {
        let (answer, answered) = oneshot::channel();
        let ended = || Error::unknown("a group write ended without an answer");
        self.entries.send((entry, answer)).await.map_err(|_| ended())?;
        answered.await.map_err(|_| ended())?
    }
}

/// A place to hand entries in, and the future that calls `write` with at most `most` of them at a time, one call after
/// the other. `write` answers for each, in order; its error is the error of each.
pub(crate) fn gather<I, O, W, F>(most: usize, write: W) -> (Gather<I, O>, impl Future<Output = ()>)
where
    W: Fn(Vec<I>) -> F,
    F: Future<Output = Result<Vec<O>>>,
{
    let (entries, mut waiting) = mpsc::channel::<Entry<I, O>>(most.max(1));
    let run = async move {
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, most.max(1)).await > 0 {
            let (given, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
            match write(given).await {
                Ok(outcomes) => {
                    // Who asked may be gone; one that gets no answer reads it as unknown.
                    for (answer, outcome) in answers.into_iter().zip(outcomes) {
                        let _ = answer.send(Ok(outcome));
                    }
                }
                Err(error) => {
                    for answer in answers {
                        let _ = answer.send(Err(error.copy()));
                    }
                }
            }
        }
    };
    (Gather { entries }, run)
}
