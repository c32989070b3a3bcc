//! The topics' subjects, read from the catalog at most once in a few seconds each.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tidings_domain::{Result, item::Item, ports::Catalog, text::Subject, topic::TopicName};
use tokio::time::Instant;

/// How long a topic's subject is used without asking again.
const FRESH: Duration = Duration::from_secs(5);

/// The most topics that are remembered.
const MOST: usize = 10_000;

pub(crate) struct Subjects {
    catalog: Arc<dyn Catalog>,
    read: Mutex<BTreeMap<TopicName, (Instant, Option<Subject>)>>,
}

impl Subjects {
    pub(crate) fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog, read: Mutex::default() }
    }

    /// The subject of the item's topic, where the item's message has none of its own.
    pub(crate) async fn of_topic(&self, item: &Item) -> Result<Option<Subject>> {
        let topic = &item.message.topic;
        if item.message.subject.is_some() {
            return Ok(None);
        }
        let known = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(topic).cloned();
        if let Some((at, subject)) = known
            && at.elapsed() < FRESH
        {
            return Ok(subject);
        }
        let subject = self.catalog.topic(topic).await?.and_then(|topic| topic.subject);
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.len() >= MOST {
            read.clear();
        }
        read.insert(topic.clone(), (Instant::now(), subject.clone()));
        Ok(subject)
    }
}
