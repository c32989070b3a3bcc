//! Which exchanges are known to stand. A publish names no other.

use std::{
    collections::BTreeSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What is known, as of one connection: whoever deletes an exchange mostly does it while the broker is away or made anew.
#[derive(Default)]
pub(crate) struct Standing(Mutex<Known>);

#[derive(Default)]
struct Known {
    epoch: u64,
    exchanges: BTreeSet<String>,
}

impl Standing {
    /// Whether `exchange` is known to stand, as of the publishing connection `epoch`.
    pub(crate) fn knows(&self, epoch: u64, exchange: &str) -> bool {
        let known = self.lock();
        known.epoch == epoch && known.exchanges.contains(exchange)
    }

    /// Notes that it stands, as of the publishing connection `epoch`.
    pub(crate) fn add(&self, epoch: u64, exchange: &str) {
        let mut known = self.lock();
        if known.epoch < epoch {
            *known = Known { epoch, exchanges: BTreeSet::new() };
        }
        if known.epoch == epoch {
            known.exchanges.insert(exchange.to_owned());
        }
    }

    /// Notes that it was found missing.
    pub(crate) fn forget(&self, exchange: &str) {
        self.lock().exchanges.remove(exchange);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_connection_knows_nothing() {
        let standing = Standing::default();
        standing.add(1, "a");
        assert!(standing.knows(1, "a"));
        assert!(!standing.knows(2, "a"));
        standing.add(2, "b");
        standing.add(1, "late");
        assert!(standing.knows(2, "b") && !standing.knows(2, "a") && !standing.knows(2, "late"));
        standing.forget("b");
        assert!(!standing.knows(2, "b"));
    }
}
