//! A queue's part in memory: who holds what, and the messages that come next.
//!
//! Leases are here and nowhere else: a restart hands everything unsettled out again. Messages that were just committed are
//! handed out from here without being read; where more waits than memory should hold, the rest is read from the table in
//! the order of numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tidings_domain::{ports::Queue, wire::Envelope};
use tokio::sync::Notify;

/// Messages that one queue keeps in memory beside those that are held.
const MAX_READY: usize = 4096;

/// Their bytes.
const MAX_READY_BYTES: usize = 16 * 1024 * 1024;

/// A message that was handed out this often moves to the safety net.
pub(crate) const MAX_RETURNS: i64 = 1000;

/// The place of a queue in every array of four.
pub(crate) fn index(queue: Queue) -> usize {
    match queue {
        Queue::Items => 0,
        Queue::Mail => 1,
        Queue::ItemsDead => 2,
        Queue::MailDead => 3,
    }
}

/// A message in memory.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// The installation's `opens` when it was published, less the times that a consumer gave it back by dying.
    pub(crate) opened: i64,
    pub(crate) envelope: Envelope,
}

#[derive(Debug)]
struct Held {
    number: u64,
    message: Message,
    epoch: u64,
    /// Its *done* is on its way to the disk.
    settling: bool,
}

#[derive(Debug, Default)]
struct Window {
    ready: BTreeMap<u64, Message>,
    ready_bytes: usize,
    /// The highest number that was ever in memory.
    last: u64,
    /// Whether the table holds nothing above `last`.
    caught_up: bool,
    /// Counts what was committed above `last` without being taken into memory.
    missed: u64,
    held: BTreeMap<u64, Held>,
    tags: u64,
    /// The consumers that live.
    epochs: BTreeSet<u64>,
}

/// What a consumer may take now.
pub(crate) enum Taken {
    /// Tag, returns, envelope.
    Messages(Vec<(u64, u32, Envelope)>),
    /// The table may hold more.
    Read,
    Nothing,
}

/// One queue.
#[derive(Debug, Default)]
pub(crate) struct QueueState {
    window: Mutex<Window>,
    /// Something came, or room came.
    pub(crate) ready: Notify,
    /// Held by whoever reads the table.
    pub(crate) reading: tokio::sync::Mutex<()>,
}

impl QueueState {
    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A consumer begins.
    pub(crate) fn join(&self, epoch: u64) {
        self.lock().epochs.insert(epoch);
    }

    /// Takes up to `max` messages for `epoch`; those that were handed out too often are put into `worn_out`.
    pub(crate) fn take(
        &self,
        epoch: u64,
        max: usize,
        opens: i64,
        worn_out: &mut Vec<(u64, Message)>,
    ) -> Taken {
        let mut window = self.lock();
        let mut taken = Vec::new();
        while taken.len() < max {
            let Some((number, message)) = window.ready.pop_first() else { break };
            window.ready_bytes -= size(&message.envelope);
            let returns = opens - message.opened;
            if returns >= MAX_RETURNS {
                worn_out.push((number, message));
                continue;
            }
            window.tags += 1;
            let tag = window.tags;
            taken.push((tag, u32::try_from(returns).unwrap_or_default(), message.envelope.clone()));
            window.held.insert(tag, Held { number, message, epoch, settling: false });
        }
        if !taken.is_empty() {
            Taken::Messages(taken)
        } else if max > 0 && !window.caught_up {
            Taken::Read
        } else {
            Taken::Nothing
        }
    }

    /// The number after which the table is to be read, and what [`QueueState::fill`] is to be told; none when memory still
    /// holds messages or the table holds no more.
    pub(crate) fn unread(&self) -> Option<(u64, u64)> {
        let window = self.lock();
        (window.ready.is_empty() && !window.caught_up).then_some((window.last, window.missed))
    }

    /// Takes what was read from the table after `after`; `whole` when the table held no more.
    pub(crate) fn fill(&self, rows: Vec<(u64, Message)>, missed: u64, whole: bool) {
        let mut window = self.lock();
        for (number, message) in rows {
            if number > window.last {
                window.last = number;
                window.ready_bytes += size(&message.envelope);
                window.ready.insert(number, message);
            }
        }
        if whole && window.missed == missed {
            window.caught_up = true;
        }
        drop(window);
        self.ready.notify_waiters();
    }

    /// Takes what was just committed with numbers from `first` on.
    pub(crate) fn committed(&self, first: u64, messages: Vec<Message>) {
        let mut window = self.lock();
        let bytes: usize = messages.iter().map(|message| size(&message.envelope)).sum();
        let fits =
            window.ready.len() + messages.len() <= MAX_READY && window.ready_bytes + bytes <= MAX_READY_BYTES;
        if window.caught_up && fits {
            for (number, message) in (first..).zip(messages) {
                if number > window.last {
                    window.last = number;
                    window.ready_bytes += size(&message.envelope);
                    window.ready.insert(number, message);
                }
            }
        } else {
            window.caught_up = false;
            window.missed += 1;
        }
        drop(window);
        self.ready.notify_waiters();
    }

    /// Another program may have written.
    pub(crate) fn look_again(&self) {
        let mut window = self.lock();
        window.caught_up = false;
        window.missed += 1;
        drop(window);
        self.ready.notify_waiters();
    }

    /// The number of the message that `tag` holds for `epoch`; none where the lease is stale.
    pub(crate) fn begin_done(&self, epoch: u64, tag: u64) -> Option<u64> {
        let mut window = self.lock();
        let held = window.held.get_mut(&tag).filter(|held| held.epoch == epoch && !held.settling)?;
        held.settling = true;
        Some(held.number)
    }

    /// Their rows are gone.
    pub(crate) fn end_done(&self, tags: &[u64]) {
        let mut window = self.lock();
        for tag in tags {
            window.held.remove(tag);
        }
        drop(window);
        self.ready.notify_waiters();
    }

    /// Their rows are there still, or nobody knows: their holder may settle them again, and a holder that is gone has given
    /// them back.
    pub(crate) fn undo_done(&self, epoch: u64, tags: &[u64]) {
        let mut window = self.lock();
        let gone = !window.epochs.contains(&epoch);
        for tag in tags {
            if let Some(held) = window.held.get_mut(tag) {
                held.settling = false;
                if gone {
                    window.put_back(*tag);
                }
            }
        }
        drop(window);
        self.ready.notify_waiters();
    }

    /// Puts a message back in its place, uncounted; false where the lease is stale.
    pub(crate) fn release(&self, epoch: u64, tag: u64) -> bool {
        let mut window = self.lock();
        if !window.held.get(&tag).is_some_and(|held| held.epoch == epoch && !held.settling) {
            return false;
        }
        window.put_back(tag);
        drop(window);
        self.ready.notify_waiters();
        true
    }

    /// A consumer is gone: puts back what it holds, counted; answers the numbers.
    pub(crate) fn abandon(&self, epoch: u64) -> Vec<u64> {
        let mut window = self.lock();
        window.epochs.remove(&epoch);
        let tags: Vec<u64> = window
            .held
            .iter()
            .filter(|(_, held)| held.epoch == epoch && !held.settling)
            .map(|(tag, _)| *tag)
            .collect();
        let numbers = tags
            .into_iter()
            .filter_map(|tag| {
                window.held.get_mut(&tag)?.message.opened -= 1;
                window.put_back(tag)
            })
            .collect();
        drop(window);
        self.ready.notify_waiters();
        numbers
    }

    /// Puts back what [`QueueState::take`] found worn out and what could not be moved. Nobody is woken: whoever takes next
    /// finds it, so that a disk that takes nothing is not asked over and over.
    pub(crate) fn put_back_worn_out(&self, worn_out: Vec<(u64, Message)>) {
        let mut window = self.lock();
        for (number, message) in worn_out {
            window.ready_bytes += size(&message.envelope);
            window.ready.insert(number, message);
        }
    }

    /// Whether `tag` is held by `epoch`.
    pub(crate) fn holds(&self, epoch: u64, tag: u64) -> bool {
        self.lock().held.get(&tag).is_some_and(|held| held.epoch == epoch)
    }

    /// How many messages `epoch` holds.
    pub(crate) fn holding(&self, epoch: u64) -> usize {
        self.lock().held.values().filter(|held| held.epoch == epoch).count()
    }
}

impl Window {
    fn put_back(&mut self, tag: u64) -> Option<u64> {
        let held = self.held.remove(&tag)?;
        self.ready_bytes += size(&held.message.envelope);
        self.ready.insert(held.number, held.message);
        Some(held.number)
    }
}

/// What an envelope weighs in memory and on the bus.
pub(crate) fn size(envelope: &Envelope) -> usize {
    let headers: usize = envelope.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    envelope.body.len() + headers
}
