//! `Catalog`.

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    api_key::{ApiKey, KeyHash},
    id::ApiKeyId,
    ports::{Catalog, INSTALLATION_VERSION, Installation, RemovedTopic},
    subscription::SubscriptionState,
    topic::{MESSAGES, Topic, TopicName},
};

use crate::{Memory, Part};

#[async_trait]
impl Catalog for Memory {
    async fn installation(&self) -> Result<Option<Installation>> {
        self.shared()
            .operate(Part::Store, |state, _| {
                Ok(Some(Installation { version: INSTALLATION_VERSION, secret: state.secret.clone() }))
            })
            .await
    }

    async fn put_topic(&self, topic: &Topic) -> Result<(Topic, bool)> {
        let topic = topic.clone();
        self.shared()
            .operate(Part::Store, move |state, _| {
                if let Some(existing) = state.topics.get_mut(&topic.name) {
                    existing.subject = topic.subject;
                    return Ok((existing.clone(), false));
                }
                state.topics.insert(topic.name.clone(), topic.clone());
                Ok((topic, true))
            })
            .await
    }

    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>> {
        self.shared().operate(Part::Store, |state, _| Ok(state.topics.get(name).cloned())).await
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        self.shared().operate(Part::Store, |state, _| Ok(state.topics.values().cloned().collect())).await
    }

    async fn remove_topic(&self, name: &TopicName) -> Result<RemovedTopic> {
        if name.as_str() == MESSAGES {
            return Err(Error::rejected("the topic messages always exists"));
        }
        self.shared()
            .operate(Part::Store, |state, _| {
                let wants =
                    |state| matches!(state, SubscriptionState::Pending | SubscriptionState::Confirmed);
                if state.subscriptions.values().any(|row| row.topic == *name && wants(row.state)) {
                    return Ok(RemovedTopic::HasSubscribers);
                }
                Ok(match state.topics.remove(name) {
                    Some(_) => RemovedTopic::Removed,
                    None => RemovedTopic::NotFound,
                })
            })
            .await
    }

    async fn put_key(&self, key: &ApiKey) -> Result<()> {
        let key = key.clone();
        self.shared()
            .operate(Part::Store, move |state, _| {
                if state.keys.contains_key(&key.id) || state.keys.values().any(|other| other.hash == key.hash)
                {
                    return Err(Error::conflict("an API key of this id or hash exists"));
                }
                state.keys.insert(key.id, key);
                Ok(())
            })
            .await
    }

    async fn key(&self, hash: &KeyHash) -> Result<Option<ApiKey>> {
        self.shared()
            .operate(Part::Store, |state, _| Ok(state.keys.values().find(|key| key.hash == *hash).cloned()))
            .await
    }

    async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.shared()
            .operate(Part::Store, |state, _| {
                let mut keys: Vec<ApiKey> = state.keys.values().cloned().collect();
                keys.sort_by_key(|key| std::cmp::Reverse((key.created_at, key.id)));
                Ok(keys)
            })
            .await
    }

    async fn remove_key(&self, id: ApiKeyId) -> Result<bool> {
        self.shared().operate(Part::Store, |state, _| Ok(state.keys.remove(&id).is_some())).await
    }
}
