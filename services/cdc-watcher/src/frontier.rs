//! What may be confirmed: publishes end in any order, positions move in order only.

use std::collections::{BTreeMap, VecDeque};

use tidings_domain::ports::Position;

/// Batches in the order in which the stream handed them out.
#[derive(Debug, Default)]
pub(crate) struct Frontier {
    batches: VecDeque<Batch>,
    first: u64,
    /// The furthest position of each partition up to which everything is published.
    reached: BTreeMap<u32, u64>,
}

#[derive(Debug)]
struct Batch {
    last: BTreeMap<u32, u64>,
    published: bool,
}

impl Frontier {
    /// Adds the next batch; answers its number.
    pub(crate) fn add(&mut self, positions: impl IntoIterator<Item = Position>) -> u64 {
        let mut last = BTreeMap::new();
        for Position { partition, offset } in positions {
            let furthest = last.entry(partition).or_insert(offset);
            *furthest = offset.max(*furthest);
        }
        self.batches.push_back(Batch { last, published: false });
        self.first + self.batches.len() as u64 - 1
    }

    /// Notes that every change of a batch is published, or durable as a dead letter.
    pub(crate) fn published(&mut self, number: u64) {
        let index = usize::try_from(number - self.first).unwrap_or(usize::MAX);
        if let Some(batch) = self.batches.get_mut(index) {
            batch.published = true;
        }
        while self.batches.front().is_some_and(|batch| batch.published) {
            self.first += 1;
            self.reached.extend(self.batches.pop_front().into_iter().flat_map(|batch| batch.last));
        }
    }

    /// Batches that are not published, or wait for one before them that is not.
    pub(crate) fn len(&self) -> usize {
        self.batches.len()
    }

    /// Whether there is something to confirm.
    pub(crate) fn has_moved(&self) -> bool {
        !self.reached.is_empty()
    }

    /// What to confirm, once.
    pub(crate) fn take_reached(&mut self) -> Vec<Position> {
        let position = |(partition, offset)| Position { partition, offset };
        std::mem::take(&mut self.reached).into_iter().map(position).collect()
    }

    /// Gives back what could not be confirmed; what was reached since is further.
    pub(crate) fn give_back(&mut self, positions: Vec<Position>) {
        for Position { partition, offset } in positions {
            self.reached.entry(partition).or_insert(offset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: u32, offset: u64) -> Position {
        Position { partition, offset }
    }

    #[test]
    fn a_position_waits_for_everything_before_it() {
        let mut frontier = Frontier::default();
        let first = frontier.add([at(0, 1), at(0, 2)]);
        let second = frontier.add([at(0, 3)]);
        let third = frontier.add([at(0, 4)]);
        frontier.published(second);
        assert!(!frontier.has_moved());
        frontier.published(first);
        assert_eq!(frontier.take_reached(), [at(0, 3)]);
        assert!(!frontier.has_moved());
        frontier.published(third);
        assert_eq!(frontier.take_reached(), [at(0, 4)]);
    }

    #[test]
    fn each_partition_has_its_own() {
        let mut frontier = Frontier::default();
        let first = frontier.add([at(1, 7), at(0, 2), at(1, 6)]);
        frontier.published(first);
        assert_eq!(frontier.take_reached(), [at(0, 2), at(1, 7)]);
    }

    #[test]
    fn what_was_not_confirmed_comes_again_unless_more_was_reached() {
        let mut frontier = Frontier::default();
        let first = frontier.add([at(0, 1), at(1, 1)]);
        frontier.published(first);
        let taken = frontier.take_reached();
        let second = frontier.add([at(0, 2)]);
        frontier.published(second);
        frontier.give_back(taken);
        assert_eq!(frontier.take_reached(), [at(0, 2), at(1, 1)]);
    }
}
