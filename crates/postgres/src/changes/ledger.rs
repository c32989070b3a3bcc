//! Which positions of the server's log may be confirmed: only whole transactions, only in order, and inside of the next one
//! how many of its changes.

use std::collections::VecDeque;

use tidings_domain::time::Timestamp;

use super::lsn::Lsn;

/// What is confirmed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The end of the last transaction of which everything is.
    pub(crate) confirmed: Lsn,
    /// Inside of the next.
    pub(crate) within: Option<Within>,
    /// The latest time of storing among it.
    pub(crate) stored_at: Option<Timestamp>,
}

/// A part of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Within {
    /// Where its commit stands.
    pub(crate) commit: Lsn,
    /// Its id.
    pub(crate) xid: u32,
    /// Its changes up to this one, counted from 1, are confirmed.
    pub(crate) ordinal: u64,
}

/// What was read, for the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Changes of one transaction, up to this ordinal.
    Changes {
        /// Where its commit stands.
        commit: Lsn,
        /// Its id.
        xid: u32,
        /// The last one's ordinal.
        ordinal: u64,
        /// The last one's offset.
        offset: u64,
        /// The latest time of storing among them.
        stored_at: Option<Timestamp>,
    },
    /// The transaction ended here.
    Commit(Lsn),
    /// Between transactions: there is nothing for us up to here.
    Idle(Lsn),
}

/// What is read and not confirmed.
#[derive(Debug)]
pub(crate) struct Ledger {
    open: VecDeque<Part>,
    progress: Progress,
    /// The last offset that was read, and the last that was confirmed.
    read: u64,
    confirmed: u64,
}

/// A transaction of which something was handed out.
#[derive(Debug)]
struct Part {
    commit: Lsn,
    xid: u32,
    /// Its last change that was read.
    ordinal: u64,
    offset: u64,
    stored_at: Option<Timestamp>,
    /// Up to where everything is confirmed once its last change is. Absent while it goes on.
    end: Option<Lsn>,
}

impl Ledger {
    /// Begins with what is confirmed already.
    pub(crate) fn new(progress: Progress) -> Self {
        Self { open: VecDeque::new(), progress, read: 0, confirmed: 0 }
    }

    /// What is confirmed.
    pub(crate) fn progress(&self) -> Progress {
        self.progress
    }

    /// How many changes are read and not confirmed.
    pub(crate) fn unconfirmed(&self) -> u64 {
        self.read - self.confirmed
    }

    /// Takes down what was read.
    pub(crate) fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Changes { commit, xid, ordinal, offset, stored_at } => {
                self.read = offset;
                match self.open.back_mut() {
                    Some(part) if part.end.is_none() => {
                        part.ordinal = ordinal;
                        part.offset = offset;
                        part.stored_at = part.stored_at.max(stored_at);
                    }
                    _ => self.open.push_back(Part { commit, xid, ordinal, offset, stored_at, end: None }),
                }
            }
            Mark::Commit(end) => {
                match self.open.back_mut() {
                    Some(part) if part.end.is_none() => part.end = Some(end),
                    // Nothing of it was for us, or it was confirmed before.
                    Some(part) => part.end = part.end.max(Some(end)),
                    None => self.raise(end),
                }
                self.settle();
            }
            Mark::Idle(end) => match self.open.back_mut() {
                // Once what is open is confirmed, so is the emptiness behind it.
                Some(part) if part.end.is_some() => part.end = part.end.max(Some(end)),
                Some(_) => {}
                None => self.raise(end),
            },
        }
    }

    /// Everything up to this offset is confirmed.
    pub(crate) fn confirm(&mut self, offset: u64) {
        self.confirmed = self.confirmed.max(offset.min(self.read));
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(part) = self.open.front()
            && part.offset <= self.confirmed
            && let Some(end) = part.end
        {
            self.progress.stored_at = self.progress.stored_at.max(part.stored_at);
            self.open.pop_front();
            self.raise(end);
        }
        // Everything before it is confirmed. What was confirmed before this stream is not handed out again and counts.
        if let Some(part) = self.open.front() {
            let ordinal = part.ordinal.saturating_sub(part.offset.saturating_sub(self.confirmed));
            if ordinal > 0 {
                self.progress.within = Some(Within { commit: part.commit, xid: part.xid, ordinal });
            }
        }
    }

    fn raise(&mut self, end: Lsn) {
        if end > self.progress.confirmed {
            self.progress.confirmed = end;
        }
        // What was inside of a transaction is behind us once its end is.
        if self.progress.within.is_some_and(|within| within.commit < self.progress.confirmed) {
            self.progress.within = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(commit: u64, ordinal: u64, offset: u64) -> Mark {
        let stored_at = Some(Timestamp::from_millis(i64::try_from(offset).unwrap()));
        Mark::Changes { commit: Lsn(commit), xid: 7, ordinal, offset, stored_at }
    }

    fn ledger() -> Ledger {
        Ledger::new(Progress { confirmed: Lsn(10), ..Progress::default() })
    }

    fn confirmed(ledger: &Ledger) -> (u64, Option<u64>) {
        let progress = ledger.progress();
        (progress.confirmed.0, progress.within.map(|within| within.ordinal))
    }

    #[test]
    fn only_whole_transactions_and_only_ends() {
        let mut ledger = ledger();
        ledger.mark(changes(100, 1, 1));
        ledger.mark(Mark::Commit(Lsn(110)));
        ledger.mark(changes(200, 2, 3));
        ledger.mark(Mark::Commit(Lsn(210)));
        assert_eq!(confirmed(&ledger), (10, None));
        assert_eq!(ledger.unconfirmed(), 3);
        ledger.confirm(1);
        assert_eq!(confirmed(&ledger), (110, None));
        ledger.confirm(2);
        assert_eq!(confirmed(&ledger), (110, Some(1)));
        ledger.confirm(1);
        assert_eq!(confirmed(&ledger), (110, Some(1)));
        ledger.confirm(3);
        assert_eq!(confirmed(&ledger), (210, None));
        assert_eq!(ledger.progress().stored_at, Some(Timestamp::from_millis(3)));
        assert_eq!(ledger.unconfirmed(), 0);
    }

    #[test]
    fn a_transaction_that_goes_on_is_confirmed_by_its_ordinals() {
        let mut ledger = ledger();
        ledger.mark(changes(100, 5, 5));
        ledger.confirm(3);
        assert_eq!(confirmed(&ledger), (10, Some(3)));
        ledger.confirm(5);
        assert_eq!(confirmed(&ledger), (10, Some(5)));
        ledger.mark(changes(100, 8, 8));
        assert_eq!(confirmed(&ledger), (10, Some(5)));
        ledger.mark(Mark::Commit(Lsn(110)));
        assert_eq!(confirmed(&ledger), (10, Some(5)));
        ledger.confirm(8);
        assert_eq!(confirmed(&ledger), (110, None));
    }

    #[test]
    fn what_was_confirmed_before_is_counted_on() {
        let within = Within { commit: Lsn(100), xid: 7, ordinal: 40 };
        let mut ledger =
            Ledger::new(Progress { confirmed: Lsn(10), within: Some(within), ..Progress::default() });
        // The first forty are not handed out again.
        ledger.mark(changes(100, 42, 2));
        assert_eq!(confirmed(&ledger), (10, Some(40)));
        ledger.confirm(1);
        assert_eq!(confirmed(&ledger), (10, Some(41)));
        ledger.confirm(2);
        ledger.mark(Mark::Commit(Lsn(110)));
        assert_eq!(confirmed(&ledger), (110, None));
    }

    #[test]
    fn a_transaction_that_was_wholly_confirmed_inside_ends_by_its_commit_alone() {
        let within = Within { commit: Lsn(100), xid: 7, ordinal: 40 };
        let mut ledger =
            Ledger::new(Progress { confirmed: Lsn(10), within: Some(within), ..Progress::default() });
        ledger.mark(Mark::Commit(Lsn(110)));
        assert_eq!(confirmed(&ledger), (110, None));
    }

    #[test]
    fn emptiness_is_confirmed_behind_what_is_open_and_not_inside_of_it() {
        let mut ledger = ledger();
        ledger.mark(Mark::Idle(Lsn(50)));
        assert_eq!(confirmed(&ledger), (50, None));
        ledger.mark(Mark::Idle(Lsn(40)));
        assert_eq!(confirmed(&ledger), (50, None));
        ledger.mark(changes(100, 1, 1));
        ledger.mark(Mark::Idle(Lsn(105)));
        ledger.mark(Mark::Commit(Lsn(110)));
        ledger.mark(Mark::Idle(Lsn(150)));
        assert_eq!(confirmed(&ledger), (50, None));
        ledger.confirm(1);
        assert_eq!(confirmed(&ledger), (150, None));
        ledger.confirm(99);
        assert_eq!(ledger.unconfirmed(), 0);
    }
}
