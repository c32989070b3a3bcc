//! Batches of changes under way: how many, how far ahead, how large, and what of them may be confirmed when.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tidings_domain::{
    Result,
    ports::{Captured, Position, StreamHold},
};
use tidings_runtime::shutdown::Shutdown;
use tokio::time::Instant;

use crate::{Settings, frontier::Frontier, publish::Publisher};

/// How far publishing may run ahead of a batch that is held up, in batches for each that may be under way.
const BATCHES_AHEAD: usize = 4;

/// The bytes of changes under way at which no more are read, and of which one read is to have at most about a half.
const MOST_BYTES: u64 = 32 * 1024 * 1024;

/// A batch whose publishing ended.
struct Ended {
    number: u64,
    /// Whether every change of it is published, or durable as a dead letter. An error: the stream is no longer ours.
    complete: Result<bool>,
    bytes: u64,
}

/// What is under way between the stream and the bus.
pub(crate) struct Flow {
    publisher: Arc<Publisher>,
    hold: Arc<dyn StreamHold>,
    settings: Settings,
    publishing: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Bytes of the changes under way, and of an average one of the last read.
    bytes: u64,
    average_bytes: u64,
    frontier: Frontier,
    confirm_at: Option<Instant>,
}

impl Flow {
    pub(crate) fn new(publisher: Arc<Publisher>, hold: Arc<dyn StreamHold>, settings: Settings) -> Self {
        Self {
            publisher,
            hold,
            settings,
            publishing: FuturesUnordered::new(),
            bytes: 0,
            average_bytes: 1,
            frontier: Frontier::default(),
            confirm_at: None,
        }
    }

    /// Whether another batch may be begun: so many at once, so many ahead of one that is held up, so many bytes.
    pub(crate) fn has_room(&self) -> bool {
        let most = self.settings.concurrency.max(1);
        let ahead = self.frontier.len() < most.saturating_mul(BATCHES_AHEAD);
        self.publishing.len() < most && ahead && self.bytes < MOST_BYTES
    }

    /// How many changes to read.
    pub(crate) fn batch(&self) -> usize {
        fitting(self.average_bytes, self.settings.batch)
    }

    /// Begins to publish a batch.
    pub(crate) fn begin(&mut self, captured: Vec<Captured>, shutdown: &Shutdown) {
        let number = self.frontier.add(captured.iter().map(|captured| captured.position));
        let bytes = captured.iter().map(size_bytes).sum();
        self.bytes += bytes;
        self.average_bytes = bytes / (captured.len() as u64).max(1);
        let (publisher, hold) = (Arc::clone(&self.publisher), Arc::clone(&self.hold));
        let shutdown = shutdown.clone();
        let publishing = async move {
            let complete = publisher.publish_all(captured, &*hold, &shutdown).await;
            Ended { number, complete, bytes }
        };
        self.publishing.push(publishing.boxed());
    }

    /// Waits until one batch has ended; for ever when none is under way. Cancel-safe. An error ends the stream: it is no
    /// longer ours.
    pub(crate) async fn one_ended(&mut self) -> Result<()> {
        let Some(ended) = self.publishing.next().await else { return std::future::pending().await };
        self.bytes -= ended.bytes;
        if ended.complete? {
            self.frontier.published(ended.number);
        }
        if self.frontier.has_moved() && self.confirm_at.is_none() {
            self.confirm_at = Some(Instant::now() + self.settings.confirm_linger());
        }
        Ok(())
    }

    /// Waits until none is under way.
    pub(crate) async fn all_ended(&mut self) -> Result<()> {
        while !self.publishing.is_empty() {
            self.one_ended().await?;
        }
        Ok(())
    }

    /// When there is something to confirm, until when others may join it.
    pub(crate) fn confirm_at(&self) -> Option<Instant> {
        self.confirm_at
    }

    /// What to confirm now.
    pub(crate) fn take_reached(&mut self) -> Vec<Position> {
        self.confirm_at = None;
        self.frontier.take_reached()
    }

    /// Gives back what could not be confirmed, to be confirmed after `wait`.
    pub(crate) fn give_back(&mut self, positions: Vec<Position>, wait: Duration) {
        self.frontier.give_back(positions);
        self.confirm_at = Some(Instant::now() + wait);
    }
}

/// How many changes to read: the larger the last ones were, the fewer.
fn fitting(average_bytes: u64, most: usize) -> usize {
    let fit = usize::try_from(MOST_BYTES / 2 / average_bytes.max(1)).unwrap_or(usize::MAX);
    fit.clamp(1, most.max(1))
}

fn size_bytes(captured: &Captured) -> u64 {
    captured
        .content
        .as_ref()
        .map_or_else(|unreadable| unreadable.bytes.len() as u64, |change| change.size_bytes)
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
