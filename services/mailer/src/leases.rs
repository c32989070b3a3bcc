//! The leases that this mailer holds, extended while their deliveries are under way.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidings_domain::{
    delivery::{DeliveryKey, LeaseToken},
    ports::{Clock, Deliveries},
    time::Timestamp,
};

/// All of them.
#[derive(Default)]
pub(crate) struct Leases {
    held: Mutex<BTreeMap<DeliveryKey, (LeaseToken, Timestamp)>>,
}

impl Leases {
    /// Holds a lease that ends at `until` for as long as the answer lives, however its owner ends.
    pub(crate) fn hold(&self, key: DeliveryKey, token: LeaseToken, until: Timestamp) -> Held<'_> {
        self.lock().insert(key, (token, until));
        Held { leases: self, key, token }
    }

    fn let_go(&self, key: &DeliveryKey, token: LeaseToken) {
        let mut held = self.lock();
        if held.get(key).is_some_and(|(held, _)| *held == token) {
            held.remove(key);
        }
    }

    /// Extends, until it is dropped, every lease of which less than half is left. One that is lost is let go: its
    /// delivery finds out when it records `sending` or settles.
    pub(crate) async fn keep(&self, deliveries: &dyn Deliveries, clock: &dyn Clock, lease: Duration) {
        loop {
            tokio::time::sleep(lease / 4).await;
            let now = clock.now();
            let ends_soon = |until: Timestamp| until.since(now) < lease / 2;
            let held: Vec<_> = (self.lock().iter())
                .filter(|(_, (_, until))| ends_soon(*until))
                .map(|(key, (token, _))| (*key, *token))
                .collect();
            if held.is_empty() {
                continue;
            }
            let until = now.plus(lease);
            match deliveries.extend(&held, until).await {
                Ok(extended) => {
                    for ((key, token), extended) in held.into_iter().zip(extended) {
                        if extended {
                            let mut held = self.lock();
                            if let Some((current, end)) = held.get_mut(&key)
                                && *current == token
                            {
                                *end = until;
                            }
                        } else {
                            tracing::warn!(delivery = %key, "the lease of a delivery under way is lost");
                            self.let_go(&key, token);
                        }
                    }
                }
                Err(error) => tracing::warn!(error = error.chain(), "leases were not extended, tried again"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<DeliveryKey, (LeaseToken, Timestamp)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One lease.
pub(crate) struct Held<'a> {
    leases: &'a Leases,
    key: DeliveryKey,
    token: LeaseToken,
}

impl Held<'_> {
    /// It was extended to `until`.
    pub(crate) fn extended(&self, until: Timestamp) {
        if let Some((token, end)) = self.leases.lock().get_mut(&self.key)
            && *token == self.token
        {
            *end = until;
        }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.leases.let_go(&self.key, self.token);
    }
}
