//! One open stream: reads, publishes several batches at once, confirms in order.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tidings_domain::{
    Error, ErrorKind, Result,
    ports::{Captured, ChangeStream},
};
use tidings_runtime::shutdown::Shutdown;
use tokio::time::Instant;

use crate::{Settings, frontier::Frontier, publish::Publisher};

/// How long one read waits for a first change.
const READ_WAIT: Duration = Duration::from_secs(20);

/// An empty answer within this time is one too early; so many in a row end the stream.
const EMPTY_TOO_EARLY: Duration = Duration::from_millis(50);
const EMPTY_ANSWERS: u32 = 3;

/// How far publishing may run ahead of a batch that is held up, in batches for each that may be under way.
const BATCHES_AHEAD: usize = 4;

/// The bytes of changes under way at which no more are read, and of which one read is to have at most about a half.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// Confirms that may fail in a row before the stream is opened anew.
const CONFIRM_FAILURES: u32 = 3;

/// A batch whose publishing ended.
struct Ended {
    number: u64,
    /// Whether every change of it is published, or durable as a dead letter.
    complete: bool,
    bytes: u64,
}

type Publishing = FuturesUnordered<BoxFuture<'static, Ended>>;

/// The state of one open stream.
pub(crate) struct Session<'a> {
    publisher: &'a Arc<Publisher>,
    settings: &'a Settings,
    stream: Box<dyn ChangeStream>,
    publishing: Publishing,
    /// Bytes of the changes under way, and of an average one of the last read.
    bytes: u64,
    average_bytes: u64,
    frontier: Frontier,
    confirm_at: Option<Instant>,
    confirm_failures: u32,
    empty_answers: u32,
    /// Whether anything was confirmed.
    pub(crate) progress: bool,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        publisher: &'a Arc<Publisher>,
        settings: &'a Settings,
        stream: Box<dyn ChangeStream>,
    ) -> Self {
        Self {
            publisher,
            settings,
            stream,
            publishing: FuturesUnordered::new(),
            bytes: 0,
            average_bytes: 1,
            frontier: Frontier::default(),
            confirm_at: None,
            confirm_failures: 0,
            empty_answers: 0,
            progress: false,
        }
    }

    /// Runs until `shutdown`: Ok then, with everything confirmed that was published. An error ends the stream; what was
    /// published and not confirmed is captured and published once more, which the mail's key makes harmless.
    pub(crate) async fn run(&mut self, shutdown: &Shutdown) -> Result<()> {
        while !shutdown.is_requested() {
            let began = Instant::now();
            let (has_room, batch) = (self.has_room(), self.batch());
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(ended) = self.publishing.next(), if !self.publishing.is_empty() => self.published(ended),
                () = at(self.confirm_at), if self.confirm_at.is_some() => self.confirm().await?,
                captured = self.stream.next(batch, READ_WAIT), if has_room => {
                    self.captured(captured?, began, shutdown)?;
                }
            }
        }
        // What is under way is finished: a publish that is cut off is one that is made twice.
        while let Some(ended) = self.publishing.next().await {
            self.published(ended);
        }
        self.confirm().await
    }

    /// Whether another batch may be begun: so many at once, so many ahead of one that is held up, so many bytes.
    fn has_room(&self) -> bool {
        let most = self.settings.concurrency.max(1);
        let ahead = self.frontier.len() < most.saturating_mul(BATCHES_AHEAD);
        self.publishing.len() < most && ahead && self.bytes < MOST_BYTES
    }

    fn batch(&self) -> usize {
        fitting(self.average_bytes, self.settings.batch)
    }

    fn captured(&mut self, captured: Vec<Captured>, began: Instant, shutdown: &Shutdown) -> Result<()> {
        if captured.is_empty() {
            let early = began.elapsed() < EMPTY_TOO_EARLY;
            self.empty_answers = if early { self.empty_answers + 1 } else { 0 };
            return match self.empty_answers {
                EMPTY_ANSWERS.. => Err(Error::unavailable("the table stream is empty for good")),
                _ => Ok(()),
            };
        }
        self.empty_answers = 0;
        let number = self.frontier.add(captured.iter().map(|captured| captured.position));
        let bytes = captured.iter().map(size_bytes).sum();
        self.bytes += bytes;
        self.average_bytes = bytes / captured.len() as u64;
        let (publisher, shutdown) = (Arc::clone(self.publisher), shutdown.clone());
        let publishing = async move {
            let complete = publisher.publish_all(captured, &shutdown).await;
            Ended { number, complete, bytes }
        };
        self.publishing.push(publishing.boxed());
        Ok(())
    }

    fn published(&mut self, ended: Ended) {
        self.bytes -= ended.bytes;
        if ended.complete {
            self.frontier.published(ended.number);
        }
        if self.frontier.has_moved() && self.confirm_at.is_none() {
            self.confirm_at = Some(Instant::now() + self.settings.confirm_linger());
        }
    }

    /// Moves the stream's position past all that is published without a hole before it. Publishes go on meanwhile.
    async fn confirm(&mut self) -> Result<()> {
        self.confirm_at = None;
        let positions = self.frontier.take_reached();
        let mut ended = Vec::new();
        let mut result = Ok(());
        for position in &positions {
            let confirming = self.stream.confirm(*position);
            result = while_publishing(confirming, &mut self.publishing, &mut ended).await;
            if result.is_err() {
                break;
            }
        }
        match result {
            Ok(()) => {
                self.confirm_failures = 0;
                self.progress |= !positions.is_empty();
            }
            Err(error) => self.not_confirmed(positions, error)?,
        }
        ended.into_iter().for_each(|ended| self.published(ended));
        Ok(())
    }

    /// A confirm whose answer was lost, or that had no effect, may be made again.
    fn not_confirmed(&mut self, positions: Vec<tidings_domain::ports::Position>, error: Error) -> Result<()> {
        self.confirm_failures += 1;
        let repeatable = matches!(error.kind, ErrorKind::Transient | ErrorKind::Unknown);
        if !repeatable || self.confirm_failures >= CONFIRM_FAILURES {
            return Err(error);
        }
        tracing::warn!(error = error.chain(), "the stream's position could not be confirmed");
        self.frontier.give_back(positions);
        self.confirm_at = Some(Instant::now() + Duration::from_millis(self.settings.retry_first_ms));
        Ok(())
    }
}

/// How many changes to read: the larger the last ones were, the fewer.
fn fitting(average_bytes: u64, most: usize) -> usize {
    let fit = usize::try_from(MOST_BYTES / 2 / average_bytes.max(1)).unwrap_or(usize::MAX);
    fit.clamp(1, most.max(1))
}

fn size_bytes(captured: &Captured) -> u64 {
    captured.content.as_ref().map_or_else(|(bytes, _)| bytes.len() as u64, |change| change.size_bytes)
}

/// Waits for `confirming` while publishes go on; those that end meanwhile are added to `ended`.
async fn while_publishing(
    confirming: impl Future<Output = Result<()>>,
    publishing: &mut Publishing,
    ended: &mut Vec<Ended>,
) -> Result<()> {
    tokio::pin!(confirming);
    loop {
        tokio::select! {
            biased;
            result = &mut confirming => return result,
            Some(one) = publishing.next(), if !publishing.is_empty() => ended.push(one),
        }
    }
}

/// Waits until `when`; for ever when there is no such time.
async fn at(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_changes_are_read_in_small_batches() {
        assert_eq!(fitting(500, 256), 256);
        assert_eq!(fitting(250 * 1024, 256), 65);
        assert_eq!(fitting(MOST_BYTES, 256), 1);
        assert_eq!(fitting(0, 0), 1);
    }
}
