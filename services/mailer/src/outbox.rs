//! The deliveries that are claimed and about to be sent, and the places that bound how many there are at once.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::FutureExt as _;
use tidings_domain::{delivery::ClaimedDelivery, subscription::Subscription};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::message::PreparedItem;

/// The right to have deliveries under way; given back when it is dropped.
pub(crate) struct Places {
    permits: OwnedSemaphorePermit,
    freed: Arc<Notify>,
}

impl Places {
    /// How many.
    pub(crate) fn count(&self) -> usize {
        self.permits.num_permits()
    }

    /// So many of them, where there are as many.
    pub(crate) fn take(&mut self, count: usize) -> Option<Self> {
        let permits = self.permits.split(count)?;
        Some(Self { permits, freed: Arc::clone(&self.freed) })
    }

    /// One of them for one delivery.
    pub(crate) fn take_one(&mut self) -> Option<Self> {
        self.take(1)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        self.freed.notify_one();
    }
}

/// A claimed delivery with what its mail is made of.
pub(crate) struct Work {
    /// The row and its lease.
    pub(crate) claimed: ClaimedDelivery,
    /// The item's part of the mail; none for a confirmation, and where the item is gone.
    pub(crate) item: Option<Arc<PreparedItem>>,
    /// The recipient; none where the subscription is gone.
    pub(crate) subscription: Option<Subscription>,
    /// Its place.
    pub(crate) place: Places,
}

/// What is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// Nothing: no sender runs, or the mail server is away.
    Closed,
    /// What is handed over; no places are given to planning.
    Trial,
    /// Everything.
    Open,
}

struct State {
    queue: VecDeque<Work>,
    gate: Gate,
}

/// Between those who claim and the one who sends.
pub(crate) struct Outbox {
    places: Arc<Semaphore>,
    size: usize,
    state: Mutex<State>,
    handed: Notify,
    planned: Notify,
    freed: Arc<Notify>,
}

impl Outbox {
    /// Closed until a sender runs.
    pub(crate) fn new(size: usize) -> Self {
        let size = size.max(1);
        Self {
            places: Arc::new(Semaphore::new(size)),
            size,
            state: Mutex::new(State { queue: VecDeque::new(), gate: Gate::Closed }),
            handed: Notify::new(),
            planned: Notify::new(),
            freed: Arc::default(),
        }
    }

    /// How many deliveries can be under way.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// `count` places at once, or none when they are not free or nothing is begun now.
    pub(crate) fn reserve(&self, count: usize) -> Option<Places> {
        if self.lock().gate != Gate::Open {
            return None;
        }
        let count = u32::try_from(count).ok().filter(|count| *count > 0)?;
        Arc::clone(&self.places).try_acquire_many_owned(count).ok().map(|permits| self.of(permits))
    }

    /// Room for planning `count` deliveries, waited for up to `patience`: what is planned without a place is written once
    /// more when it is claimed. None when it is not free by then, would be more than a half of all, or nothing is begun now.
    pub(crate) async fn room(&self, count: usize, patience: Duration) -> Option<Places> {
        if self.lock().gate != Gate::Open {
            return None;
        }
        let count =
            u32::try_from(count).ok().filter(|count| *count > 0 && *count as usize <= self.size / 2)?;
        let many = Arc::clone(&self.places).acquire_many_owned(count);
        tokio::time::timeout(patience, many).await.ok()?.ok().map(|permits| self.of(permits))
    }

    /// At least one place, waiting for it; up to `wanted` when they become free within `patience`.
    pub(crate) async fn places(&self, wanted: usize, patience: Duration) -> Places {
        let closed = "the places are never closed";
        let wanted = wanted.clamp(1, self.size);
        let many = Arc::clone(&self.places).acquire_many_owned(u32::try_from(wanted).unwrap_or(1));
        let Ok(permits) = tokio::time::timeout(patience, many).await else {
            let one = Arc::clone(&self.places).acquire_owned().await.expect(closed);
            let mut places = self.of(one);
            places.add_free(self, wanted - 1);
            return places;
        };
        let mut places = self.of(permits.expect(closed));
        places.add_free(self, self.size);
        places
    }

    /// Hands works to the sender; gives them back when nothing is begun now.
    pub(crate) fn hand_over(&self, works: Vec<Work>) -> Result<(), Vec<Work>> {
        let mut state = self.lock();
        if state.gate == Gate::Closed {
            return Err(works);
        }
        state.queue.extend(works);
        drop(state);
        self.handed.notify_one();
        Ok(())
    }

    /// The next works, waiting for them.
    pub(crate) async fn take(&self) -> Vec<Work> {
        loop {
            let handed = self.handed.notified();
            let works: Vec<_> = self.lock().queue.drain(..).collect();
            if !works.is_empty() {
                return works;
            }
            handed.await;
        }
    }

    /// From now on this is let in; answers what was not begun when that is nothing.
    pub(crate) fn set(&self, gate: Gate) -> Vec<Work> {
        let mut state = self.lock();
        state.gate = gate;
        if gate == Gate::Closed { state.queue.drain(..).collect() } else { Vec::new() }
    }

    /// Says that deliveries were planned which nobody has claimed.
    pub(crate) fn planned_unclaimed(&self) {
        self.planned.notify_one();
    }

    /// Ends when that was said since the last time.
    pub(crate) async fn unclaimed(&self) {
        self.planned.notified().await;
    }

    /// Ends when places were given back since the last time.
    pub(crate) async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Forgets that places were given back.
    pub(crate) fn forget_freed(&self) {
        let _ = self.freed.notified().now_or_never();
    }

    fn of(&self, permits: OwnedSemaphorePermit) -> Places {
        Places { permits, freed: Arc::clone(&self.freed) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Places {
    /// Adds what is free, up to `most` more.
    fn add_free(&mut self, outbox: &Outbox, most: usize) {
        let most = outbox.places.available_permits().min(most);
        if let Ok(most) = u32::try_from(most)
            && most > 0
            && let Ok(more) = Arc::clone(&outbox.places).try_acquire_many_owned(most)
        {
            self.permits.merge(more);
        }
    }
}
