//! The copy of topics and keys that lets the api accept with nothing but the broker (promise 3).

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use axum::http::StatusCode;
use tidings_domain::{
    Error,
    api_key::{ApiKey, KeyHash},
    ports::Catalog,
    topic::{Topic, TopicName},
};
use tidings_runtime::{health::Part, shutdown::Shutdown};
use tokio::{sync::Mutex, time::Instant};

use crate::problem::{Problem, Result};

/// How long a *no* of the store, or its silence, is kept.
const NO_IS_KEPT: Duration = Duration::from_secs(1);

/// The most *no*s that are kept: guesses must not fill the memory.
const MAX_NOS: usize = 10_000;

/// Topics and keys as they were when the store was last read.
pub(crate) struct CatalogCopy {
    catalog: Arc<dyn Catalog>,
    max_age: Duration,
    state: RwLock<State>,
    /// Held by the request that reads a copy that is not there yet, so that the others wait for it.
    reading: Mutex<()>,
}

#[derive(Default)]
struct State {
    read_at: Option<Instant>,
    failed_at: Option<Instant>,
    topics: BTreeMap<TopicName, Topic>,
    keys: BTreeMap<KeyHash, ApiKey>,
    no_topics: BTreeMap<TopicName, Instant>,
    no_keys: BTreeMap<KeyHash, Instant>,
}

impl CatalogCopy {
    pub(crate) fn new(catalog: Arc<dyn Catalog>, max_age: Duration) -> Self {
        Self { catalog, max_age, state: RwLock::default(), reading: Mutex::default() }
    }

    /// The topic, looked up once where the copy lacks it.
    pub(crate) async fn topic(&self, name: &TopicName) -> Result<Option<Topic>> {
        self.in_force().await?;
        {
            let state = self.read();
            if let Some(topic) = state.topics.get(name) {
                return Ok(Some(topic.clone()));
            }
            if is_kept(state.no_topics.get(name)) {
                return Ok(None);
            }
        }
        let found = self.catalog.topic(name).await.map_err(|error| away(&error))?;
        match &found {
            Some(topic) => self.put_topic(topic.clone()),
            None => keep_no(&mut self.write().no_topics, name.clone()),
        }
        Ok(found)
    }

    /// The key with this hash, looked up once where the copy lacks it.
    pub(crate) async fn key(&self, hash: KeyHash) -> Result<Option<ApiKey>> {
        self.in_force().await?;
        {
            let state = self.read();
            if let Some(key) = state.keys.get(&hash) {
                return Ok(Some(key.clone()));
            }
            if is_kept(state.no_keys.get(&hash)) {
                return Ok(None);
            }
        }
        let found = self.catalog.key(&hash).await.map_err(|error| away(&error))?;
        let mut state = self.write();
        match &found {
            Some(key) => {
                state.no_keys.remove(&hash);
                state.keys.insert(hash, key.clone());
            }
            None => keep_no(&mut state.no_keys, hash),
        }
        Ok(found)
    }

    /// The names of all topics of the copy.
    pub(crate) async fn names(&self) -> Result<Vec<TopicName>> {
        self.in_force().await?;
        Ok(self.read().topics.keys().cloned().collect())
    }

    /// Takes in a topic that this process has just made or found.
    pub(crate) fn put_topic(&self, topic: Topic) {
        let mut state = self.write();
        state.no_topics.remove(&topic.name);
        state.topics.insert(topic.name.clone(), topic);
    }

    /// Drops a topic that this process has just removed.
    pub(crate) fn remove_topic(&self, name: &TopicName) {
        self.write().topics.remove(name);
    }

    /// Reads the copy anew; on failure the old one stays.
    pub(crate) async fn refresh(&self) -> tidings_domain::Result<()> {
        let read = async { Ok((self.catalog.topics().await?, self.catalog.keys().await?)) };
        let outcome: tidings_domain::Result<_> = read.await;
        let mut state = self.write();
        match outcome {
            Ok((topics, keys)) => {
                state.topics = topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
                state.keys = keys.into_iter().map(|key| (key.hash, key)).collect();
                state.read_at = Some(Instant::now());
                state.failed_at = None;
                Ok(())
            }
            Err(error) => {
                state.failed_at = Some(Instant::now());
                Err(error)
            }
        }
    }

    /// Refreshes every `every` until shutdown, and says through `part` how old the copy is.
    pub(crate) async fn keep(&self, every: Duration, part: &Part, shutdown: &Shutdown) {
        loop {
            match self.refresh().await {
                Ok(()) => part.up(),
                Err(error) => {
                    tracing::debug!(error = error.chain(), "cannot read topics and keys");
                    let age = self.read().read_at.map(|at| at.elapsed());
                    match age {
                        Some(age) if age <= self.max_age => {
                            part.degraded("the store is away: topics and keys are a copy from before");
                        }
                        Some(_) => part.waiting("the store, away for so long that its copy is too old"),
                        None => part.waiting("the store, to read topics and keys for the first time"),
                    }
                }
            }
            if !shutdown.sleep(every).await {
                return;
            }
        }
    }

    /// Ends with an error unless there is a copy that may be used; reads the first one itself.
    async fn in_force(&self) -> Result<()> {
        if self.is_in_force() {
            return Ok(());
        }
        let _reading = self.reading.lock().await;
        if self.is_in_force() {
            return Ok(());
        }
        if is_kept(self.read().failed_at.as_ref()) {
            return Err(away(&Error::unavailable("topics and keys were never read, or too long ago")));
        }
        self.refresh().await.map_err(|error| away(&error))
    }

    fn is_in_force(&self) -> bool {
        self.read().read_at.is_some_and(|at| at.elapsed() <= self.max_age)
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_kept(at: Option<&Instant>) -> bool {
    at.is_some_and(|at| at.elapsed() < NO_IS_KEPT)
}

fn keep_no<K: Ord>(nos: &mut BTreeMap<K, Instant>, of: K) {
    if nos.len() >= MAX_NOS {
        nos.retain(|_, at| is_kept(Some(at)));
    }
    if nos.len() < MAX_NOS {
        nos.insert(of, Instant::now());
    }
}

fn away(error: &Error) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "catalog-away",
        "Topics and keys cannot be looked up now",
        "whether this topic or key exists is not known: the store is not answering",
    )
    .mend("try again after a moment; GET /readyz says what is waited for")
    .retry_after(error.retry_after)
    .caused_by(error)
}
