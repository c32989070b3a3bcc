//! Gathering: many tasks each want one row written, and one call writes all that are waiting. While a call is under
//! way the next batch fills. Under load a batch waits a moment for company, since what a call costs beside its rows is
//! most of it; a lone row is written at once.

use std::{future::Future, time::Duration};

use tidings_domain::{Error, Result};
use tokio::sync::{mpsc, oneshot};

/// A batch of so many says that there will be more: the next one waits for company.
const DENSE: usize = 4;

/// How long a batch looks for company before it looks whether any came.
const LOOK: Duration = Duration::from_millis(1);

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
/// the other. Under load it looks up to `looks` times for company, as long as any comes. `write` answers for each, in
/// order; its error is the error of each.
pub(crate) fn gather<I, O, W, F>(
    most: usize,
    looks: u32,
    write: W,
) -> (Gather<I, O>, impl Future<Output = ()>)
where
    W: Fn(Vec<I>) -> F,
    F: Future<Output = Result<Vec<O>>>,
{
    let most = most.max(1);
    let (entries, mut waiting) = mpsc::channel::<Entry<I, O>>(most);
    let run = async move {
        let (mut batch, mut dense) = (Vec::new(), false);
        while waiting.recv_many(&mut batch, most).await > 0 {
            for _ in 0..if dense { looks } else { 0 } {
                let before = batch.len();
                tokio::time::sleep(LOOK).await;
                while batch.len() < most
                    && let Ok(entry) = waiting.try_recv()
                {
                    batch.push(entry);
                }
                if batch.len() == before {
                    break;
                }
            }
            dense = batch.len() >= DENSE;
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    /// The sizes of the batches in which `times` entries are written that come `apart` from each other, each call lasting
    /// 1 ms, and how long the last one waited.
    async fn batches(times: u32, apart: Duration) -> (Vec<usize>, Duration) {
        let (sizes, mut written) = mpsc::unbounded_channel();
        let (gather, run) = gather(64, 4, move |entries: Vec<u32>| {
            let _ = sizes.send(entries.len());
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Ok(entries)
            }
        });
        let calls = (0..times).map(|number| {
            let gather = gather.clone();
            async move {
                tokio::time::sleep(apart * number).await;
                let began = Instant::now();
                assert_eq!(gather.call(number).await.expect("it is written"), number);
                began.elapsed()
            }
        });
        let waits = tokio::select! {
            biased;
            () = run => panic!("the gatherer ended by itself"),
            waits = futures::future::join_all(calls) => waits,
        };
        let mut all = Vec::new();
        while let Ok(size) = written.try_recv() {
            all.push(size);
        }
        (all, waits.last().copied().unwrap_or_default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lone_entry_waits_for_nobody() {
        let (sizes, waited) = batches(20, Duration::from_millis(5)).await;
        assert_eq!((sizes, waited), (vec![1; 20], Duration::from_millis(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn under_load_entries_share_calls() {
        let (sizes, _) = batches(200, Duration::from_micros(250)).await;
        assert_eq!(sizes.iter().sum::<usize>(), 200);
        assert!(sizes.len() <= 20, "{sizes:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_nobody_joins_looks_once() {
        let (gather, run) = gather(64, 4, |entries: Vec<u32>| async { Ok(entries) });
        let began = Instant::now();
        // All that there are come together, and together again: the second time the batch before was dense.
        let calls = (0..8).map(|number| {
            let gather = gather.clone();
            async move {
                for _ in 0..2 {
                    gather.call(number).await.expect("it is written");
                }
            }
        });
        tokio::select! {
            biased;
            () = run => panic!("the gatherer ended by itself"),
            _ = futures::future::join_all(calls) => {}
        }
        assert_eq!(began.elapsed(), LOOK);
    }
}
