//! `Limits` in process: serves in production where there is no Redis, and is all lost with its process.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tidings_domain::{
    Result,
    id::MessageId,
    idempotency::{Fingerprint, REMEMBERED},
    ports::{Admission, Bucket, Limits, Request},
    time::Timestamp,
};

/// The most fingerprints that are remembered; the oldest are dropped for newer ones.
pub const MAX_FINGERPRINTS: usize = 100_000;

/// The most accepted ids that are remembered; the oldest are dropped for newer ones.
pub const MAX_ACCEPTED: usize = 100_000;

/// How long an accepted id is remembered at most.
pub const ACCEPTED_REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// The most buckets that are kept; the one that was drawn from longest ago is dropped for a new one.
pub const MAX_BUCKETS: usize = 100_000;

/// Rates, fingerprints and accepted ids in bounded memory.
#[derive(Default)]
pub struct InProcessLimits {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    buckets: Aged<String, f64>,
    fingerprints: Aged<MessageId, Fingerprint>,
    accepted: Aged<MessageId, ()>,
}

/// A map that knows the age of its entries.
struct Aged<K, V> {
    entries: BTreeMap<K, (Timestamp, V)>,
    ages: BTreeSet<(Timestamp, K)>,
}

impl<K, V> Default for Aged<K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), ages: BTreeSet::new() }
    }
}

impl<K: Ord + Clone, V> Aged<K, V> {
    fn put(&mut self, key: K, value: V, at: Timestamp, most: usize) {
        self.remove(&key);
        self.ages.insert((at, key.clone()));
        self.entries.insert(key, (at, value));
        while self.entries.len() > most
            && let Some((_, oldest)) = self.ages.pop_first()
        {
            self.entries.remove(&oldest);
        }
    }

    fn remove(&mut self, key: &K) {
        if let Some((at, _)) = self.entries.remove(key) {
            self.ages.remove(&(at, key.clone()));
        }
    }

    fn forget_before(&mut self, at: Timestamp) {
        while let Some((oldest, key)) = self.ages.first().cloned()
            && oldest < at
        {
            self.remove(&key);
        }
    }
}

impl InProcessLimits {
    /// Nothing remembered.
    pub fn new() -> Self {
        Self::default()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// What a bucket holds at `at`.
    fn tokens(&self, bucket: &Bucket, at: Timestamp) -> f64 {
        let burst = f64::from(bucket.burst);
        let Some((since, tokens)) = self.buckets.entries.get(&bucket.name) else { return burst };
        (tokens + at.since(*since).as_secs_f64() * f64::from(bucket.per_second)).min(burst)
    }

    /// How long until every bucket has the cost. A cost above a bucket's burst waits for a full one, which then owes.
    fn wait(&self, request: &Request, at: Timestamp) -> Option<Duration> {
        let missing = |bucket: &Bucket| {
            let needed = f64::from(request.cost.min(bucket.burst)) - self.tokens(bucket, at);
            (needed > 0.0).then(|| Duration::from_secs_f64(needed / f64::from(bucket.per_second.max(1))))
        };
        request.buckets.iter().filter_map(missing).max()
    }

    fn draw(&mut self, request: &Request, at: Timestamp) {
        for bucket in &request.buckets {
            let tokens = self.tokens(bucket, at) - f64::from(request.cost);
            // A clock that went back gives nothing twice: what was refilled until then is not refilled again.
            let since = self.buckets.entries.get(&bucket.name).map_or(at, |(since, _)| at.max(*since));
            self.buckets.put(bucket.name.clone(), tokens, since, MAX_BUCKETS);
        }
    }

    /// Whether another fingerprint is remembered; what was not remembered is from now on.
    fn is_different(&mut self, id: MessageId, fingerprint: Fingerprint, at: Timestamp) -> bool {
        match self.fingerprints.entries.get(&id) {
            Some((_, known)) => *known != fingerprint,
            None => {
                self.fingerprints.put(id, fingerprint, at, MAX_FINGERPRINTS);
                false
            }
        }
    }
}

#[async_trait]
impl Limits for InProcessLimits {
    async fn admit(&self, request: &Request, at: Timestamp) -> Result<Admission> {
        let mut inner = self.lock();
        if let Some(retry_after) = inner.wait(request, at) {
            return Ok(Admission::Wait { retry_after });
        }
        inner.draw(request, at);
        inner.fingerprints.forget_before(at.minus(REMEMBERED));
        let mut decide =
            |(id, fingerprint): &(MessageId, Fingerprint)| inner.is_different(*id, *fingerprint, at);
        Ok(Admission::Go { different: request.fingerprints.iter().map(&mut decide).collect() })
    }

    async fn forget(&self, ids: &[MessageId]) -> Result<()> {
        let mut inner = self.lock();
        ids.iter().for_each(|id| inner.fingerprints.remove(id));
        Ok(())
    }

    async fn accepted(&self, ids: &[MessageId], at: Timestamp) -> Result<()> {
        let mut inner = self.lock();
        inner.accepted.forget_before(at.minus(ACCEPTED_REMEMBERED));
        for id in ids {
            // A repeat is the same message: it was accepted when it first was.
            if !inner.accepted.entries.contains_key(id) {
                inner.accepted.put(*id, (), at, MAX_ACCEPTED);
            }
        }
        Ok(())
    }

    async fn is_accepted(&self, ids: &[MessageId]) -> Result<Vec<Option<Timestamp>>> {
        let inner = self.lock();
        Ok(ids.iter().map(|id| inner.accepted.entries.get(id).map(|(at, ())| *at)).collect())
    }
}

#[cfg(test)]
mod tests;
