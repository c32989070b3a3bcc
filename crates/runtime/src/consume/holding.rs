//! What is in hand and not under way: whose turn comes when, and under which leases.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use tidings_domain::ports::Lease;
use tokio::time::Instant;

use super::entry::Entry;

/// A batch of so many says that there will be more: the next one waits for company also where nothing is under way.
const DENSE: usize = 8;

/// Messages that wait, and the leases of all that is in hand.
#[derive(Default)]
pub(super) struct Holding {
    /// Not tried yet, in the order of their coming.
    fresh: VecDeque<Entry>,
    /// To be tried again now, each alone.
    again: VecDeque<Entry>,
    /// To be tried again later.
    later: BTreeMap<(Instant, u64), Entry>,
    counter: u64,
    /// How many the last batch had.
    last_batch: usize,
    /// Of everything in hand, waiting or under way, with the bytes of its body.
    leases: BTreeMap<Lease, usize>,
    bytes: usize,
}

impl Holding {
    /// Messages in hand.
    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    /// Bytes of bodies in hand.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn leases(&self) -> Vec<Lease> {
        self.leases.keys().copied().collect()
    }

    pub(super) fn take(&mut self, entry: Entry) {
        let bytes = entry.received.envelope.body.len();
        self.bytes += bytes;
        self.leases.insert(entry.lease(), bytes);
        self.fresh.push_back(entry);
    }

    /// Lets an entry that is in hand wait until `due`.
    pub(super) fn retry_at(&mut self, due: Instant, entry: Entry) {
        self.counter += 1;
        self.later.insert((due, self.counter), entry);
    }

    pub(super) fn holds(&self, lease: Lease) -> bool {
        self.leases.contains_key(&lease)
    }

    /// Gives up a lease; false when it was lost before.
    pub(super) fn let_go(&mut self, lease: Lease) -> bool {
        let bytes = self.leases.remove(&lease);
        self.bytes -= bytes.unwrap_or(0);
        bytes.is_some()
    }

    /// Drops what waits under leases that are lost.
    pub(super) fn drop_lost(&mut self) {
        let leases = &self.leases;
        self.fresh.retain(|entry| leases.contains_key(&entry.lease()));
        self.again.retain(|entry| leases.contains_key(&entry.lease()));
        self.later.retain(|_, entry| leases.contains_key(&entry.lease()));
    }

    /// Everything that waits, given up: those not started first.
    pub(super) fn give_up_waiting(&mut self) -> Vec<Lease> {
        let fresh = self.fresh.drain(..).map(|entry| entry.lease());
        let again = self.again.drain(..).map(|entry| entry.lease());
        let later = std::mem::take(&mut self.later).into_values().map(|entry| entry.lease());
        let leases: Vec<_> = fresh.chain(again).chain(later).collect();
        for lease in &leases {
            self.let_go(*lease);
        }
        leases
    }

    /// When something waits for a time, the next such time.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.later.keys().next().map(|(due, _)| *due)
    }

    /// Moves to their turn those whose time has come.
    pub(super) fn make_due(&mut self, now: Instant) {
        while let Some(first) = self.later.first_entry()
            && first.key().0 <= now
        {
            self.again.push_back(first.remove());
        }
    }

    /// The next entry to be tried alone.
    pub(super) fn next_alone(&mut self) -> Option<Entry> {
        self.again.pop_front()
    }

    /// The next batch of at most `max`, or when it is ripe. It is ripe when it is full, when its first has waited for
    /// `linger`, or when nothing else is under way (`idle`) and the batch before it was small.
    pub(super) fn next_batch(
        &mut self,
        max: usize,
        idle: bool,
        linger: Duration,
        now: Instant,
    ) -> Result<Vec<Entry>, Option<Instant>> {
        let Some(first) = self.fresh.front() else { return Err(None) };
        let ripe_at = first.state.since + linger;
        let at_once = idle && self.last_batch < DENSE;
        if self.fresh.len() < max && !at_once && now < ripe_at {
            return Err(Some(ripe_at));
        }
        self.last_batch = self.fresh.len().min(max);
        Ok(self.fresh.drain(..self.last_batch).collect())
    }
}

#[cfg(test)]
mod tests {
    use tidings_domain::{ports::Received, wire::Envelope};

    use super::*;

    const LINGER: Duration = Duration::from_millis(2);

    fn entry(tag: u64, since: Instant) -> Entry {
        let lease = Lease { epoch: 1, tag };
        Entry::new(Received { envelope: Envelope::default(), returns: 0, lease }, since)
    }

    fn holding(count: u64, since: Instant) -> Holding {
        let mut holding = Holding::default();
        (0..count).for_each(|tag| holding.take(entry(tag, since)));
        holding
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_waits_only_under_load_and_only_for_a_moment() {
        let now = Instant::now();
        assert_eq!(holding(1, now).next_batch(4, true, LINGER, now).map(|b| b.len()), Ok(1));
        assert_eq!(holding(5, now).next_batch(4, false, LINGER, now).map(|b| b.len()), Ok(4));
        assert_eq!(
            holding(1, now).next_batch(4, false, LINGER, now).map(|b| b.len()),
            Err(Some(now + LINGER))
        );
        assert_eq!(holding(1, now).next_batch(4, false, LINGER, now + LINGER).map(|b| b.len()), Ok(1));
        assert_eq!(holding(0, now).next_batch(4, true, LINGER, now).map(|b| b.len()), Err(None));
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_dense_batch_the_next_one_waits_for_company() {
        let now = Instant::now();
        let mut holding = holding(DENSE as u64, now);
        assert_eq!(holding.next_batch(99, true, LINGER, now).map(|b| b.len()), Ok(DENSE));
        holding.take(entry(100, now));
        assert_eq!(holding.next_batch(99, true, LINGER, now).map(|b| b.len()), Err(Some(now + LINGER)));
        assert_eq!(holding.next_batch(99, true, LINGER, now + LINGER).map(|b| b.len()), Ok(1));
        holding.take(entry(101, now));
        assert_eq!(holding.next_batch(99, true, LINGER, now).map(|b| b.len()), Ok(1), "the rush is over");
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_given_up_with_the_unstarted_first_and_what_runs_is_kept() {
        let now = Instant::now();
        let mut holding = holding(3, now);
        let mut batch = holding.next_batch(2, true, LINGER, now).map_err(drop).unwrap();
        holding.retry_at(now, batch.pop().unwrap());
        let tags: Vec<_> = holding.give_up_waiting().into_iter().map(|lease| lease.tag).collect();
        assert_eq!(tags, [2, 1]);
        assert_eq!(holding.leases(), [batch[0].lease()]);
    }

    #[tokio::test(start_paused = true)]
    async fn lost_leases_take_their_messages_with_them() {
        let now = Instant::now();
        let mut holding = holding(2, now);
        assert!(holding.let_go(Lease { epoch: 1, tag: 0 }));
        assert!(!holding.let_go(Lease { epoch: 1, tag: 0 }));
        holding.drop_lost();
        let batch = holding.next_batch(9, true, LINGER, now).map_err(drop).unwrap();
        assert_eq!(batch.iter().map(|entry| entry.lease().tag).collect::<Vec<_>>(), [1]);
    }
}
