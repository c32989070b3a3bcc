//! `Catalog`: topics, API keys, and what provisioning wrote.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Row, sqlite::SqliteRow};
use tidings_domain::{
    Error, Result,
    api_key::{ApiKey, KeyHash},
    id::ApiKeyId,
    ports::{Catalog, Installation, RemovedTopic},
    text::Subject,
    token::Secret,
    topic::{MESSAGES, Topic, TopicName},
};

use crate::{
    fault::readable,
    group::{Request, Session},
    rows::{self, to_json},
    shared::Handle,
};

const INSTALLATION: &str = "SELECT version, secret FROM installation WHERE one = 1";

const TOPIC: &str = "SELECT name, subject, created_at FROM topics WHERE name = ?1";

const TOPICS: &str = "SELECT name, subject, created_at FROM topics ORDER BY name";

const THERE: &str = "SELECT name, created_at FROM topics WHERE name IN (SELECT value FROM json_each(?1))";

const PUT_TOPICS: &str = "INSERT INTO topics (name, subject, created_at)
    SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true
    ON CONFLICT (name) DO UPDATE SET subject = excluded.subject";

const SUBSCRIBED: &str = "SELECT EXISTS (SELECT 1 FROM topics WHERE name = ?1),
    EXISTS (SELECT 1 FROM subscriptions WHERE topic = ?1 AND state IN ('pending', 'confirmed'))";

const REMOVE_TOPIC: &str = "DELETE FROM topics WHERE name = ?1";

const PUT_KEY: &str = "INSERT INTO api_keys (id, hash, owner, scopes, topics, created_at)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";

const KEY: &str = "SELECT id, hash, owner, scopes, topics, created_at FROM api_keys WHERE hash = ?1";

const KEYS: &str =
    "SELECT id, hash, owner, scopes, topics, created_at FROM api_keys ORDER BY created_at DESC, id DESC";

const REMOVE_KEY: &str = "DELETE FROM api_keys WHERE id = ?1";

/// The port.
pub(crate) struct SqliteCatalog(pub(crate) Arc<Handle>);

#[async_trait]
impl Catalog for SqliteCatalog {
    async fn installation(&self) -> Result<Option<Installation>> {
        let read = sqlx::query(INSTALLATION).fetch_optional(&self.0.readers).await;
        let Some(row) = self.0.read(read, "read the installation")? else { return Ok(None) };
        let secret = row.try_get::<Vec<u8>, _>(1).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Some(Installation {
            version: rows::number(&row, 0, "version")?,
            secret: Secret::new(readable(secret, "secret")?),
        }))
    }

    async fn put_topic(&self, topic: &Topic) -> Result<(Topic, bool)> {
        self.0.write(PutTopic { topic: topic.clone() }).await
    }

    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>> {
        let read = sqlx::query(TOPIC).bind(name.as_str().to_owned()).fetch_optional(&self.0.readers).await;
        self.0.read(read, "read a topic")?.as_ref().map(topic).transpose()
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        let read = sqlx::query(TOPICS).fetch_all(&self.0.readers).await;
        self.0.read(read, "read the topics")?.iter().map(topic).collect()
    }

    async fn remove_topic(&self, name: &TopicName) -> Result<RemovedTopic> {
        if name.as_str() == MESSAGES {
            return Err(Error::rejected("the topic messages always exists"));
        }
        self.0.write(RemoveTopic { name: name.clone() }).await
    }

    async fn put_key(&self, key: &ApiKey) -> Result<()> {
        match self.0.write(PutKey { key: key.clone() }).await? {
            true => Ok(()),
            false => Err(Error::conflict("the key's id or hash is taken")),
        }
    }

    async fn key(&self, hash: &KeyHash) -> Result<Option<ApiKey>> {
        let read = sqlx::query(KEY).bind(hash.0.to_vec()).fetch_optional(&self.0.readers).await;
        self.0.read(read, "read a key")?.as_ref().map(key).transpose()
    }

    async fn keys(&self) -> Result<Vec<ApiKey>> {
        let read = sqlx::query(KEYS).fetch_all(&self.0.readers).await;
        self.0.read(read, "read the keys")?.iter().map(key).collect()
    }

    async fn remove_key(&self, id: ApiKeyId) -> Result<bool> {
        self.0.write(RemoveKey { id }).await
    }
}

fn topic(row: &SqliteRow) -> Result<Topic> {
    let name = rows::text(row, 0).and_then(|name| TopicName::parse(name).ok());
    Ok(Topic {
        name: readable(name, "topic name")?,
        subject: rows::text(row, 1).and_then(|subject| Subject::parse(subject).ok()),
        created_at: rows::time(row, 2, "time")?,
    })
}

fn key(row: &SqliteRow) -> Result<ApiKey> {
    let hash = row.try_get::<Vec<u8>, _>(1).ok().and_then(|bytes| bytes.try_into().ok());
    let read = |column| rows::json(row, column, "list");
    Ok(ApiKey {
        id: ApiKeyId(rows::id(row, 0, "key id")?),
        hash: KeyHash(readable(hash, "key hash")?),
        owner: readable(rows::text(row, 2), "owner")?.to_owned(),
        scopes: readable(serde_json::from_value(read(3)?).ok(), "scopes")?,
        topics: readable(serde_json::from_value(read(4)?).ok(), "topics")?,
        created_at: rows::time(row, 5, "time")?,
    })
}

/// A topic to make or to change.
pub(crate) struct PutTopic {
    topic: Topic,
}

impl Request for PutTopic {
    type Answer = (Topic, bool);

    const WHAT: &'static str = "put a topic";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Self::Answer>> {
        let names: Vec<_> = requests.iter().map(|request| &request.topic.name).collect();
        let found = sqlx::query(THERE).bind(to_json(&names)).fetch_all(&mut session.connection).await?;
        let mut there: std::collections::BTreeMap<String, _> = found
            .iter()
            .filter_map(|row| Some((rows::text(row, 0)?.to_owned(), rows::optional_time(row, 1)?)))
            .collect();
        let answers: Vec<Self::Answer> = requests
            .iter()
            .map(|PutTopic { topic }| {
                let made = !there.contains_key(topic.name.as_str());
                let created_at = *there.entry(topic.name.to_string()).or_insert(topic.created_at);
                (Topic { created_at, ..topic.clone() }, made)
            })
            .collect();
        let written: Vec<_> = answers
            .iter()
            .map(|(topic, _)| {
                (&topic.name, topic.subject.as_ref().map(Subject::as_str), topic.created_at.as_millis())
            })
            .collect();
        sqlx::query(PUT_TOPICS).bind(to_json(&written)).execute(&mut session.connection).await?;
        Ok(answers)
    }
}

/// A topic to remove.
pub(crate) struct RemoveTopic {
    name: TopicName,
}

impl Request for RemoveTopic {
    type Answer = RemovedTopic;

    const WHAT: &'static str = "remove a topic";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<RemovedTopic>> {
        // A person's act, one at a time: a group never holds many.
        let mut answers = Vec::with_capacity(requests.len());
        for RemoveTopic { name } in requests {
            let name = name.as_str().to_owned();
            let (there, subscribed): (bool, bool) =
                sqlx::query_as(SUBSCRIBED).bind(name.clone()).fetch_one(&mut session.connection).await?;
            if there && !subscribed {
                sqlx::query(REMOVE_TOPIC).bind(name).execute(&mut session.connection).await?;
            }
            answers.push(match (there, subscribed) {
                (false, _) => RemovedTopic::NotFound,
                (true, true) => RemovedTopic::HasSubscribers,
                (true, false) => RemovedTopic::Removed,
            });
        }
        Ok(answers)
    }
}

/// A key to make.
pub(crate) struct PutKey {
    key: ApiKey,
}

impl Request for PutKey {
    /// Whether it was made.
    type Answer = bool;

    const WHAT: &'static str = "make a key";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<bool>> {
        let mut answers = Vec::with_capacity(requests.len());
        for PutKey { key } in requests {
            let put = sqlx::query(PUT_KEY)
                .bind(key.id.to_string())
                .bind(key.hash.0.to_vec())
                .bind(key.owner.clone())
                .bind(to_json(&key.scopes))
                .bind(to_json(&key.topics))
                .bind(key.created_at.as_millis())
                .execute(&mut session.connection)
                .await?;
            answers.push(put.rows_affected() == 1);
        }
        Ok(answers)
    }
}

/// A key to remove.
pub(crate) struct RemoveKey {
    id: ApiKeyId,
}

impl Request for RemoveKey {
    /// Whether there was one.
    type Answer = bool;

    const WHAT: &'static str = "remove a key";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<bool>> {
        let mut answers = Vec::with_capacity(requests.len());
        for RemoveKey { id } in requests {
            let removed =
                sqlx::query(REMOVE_KEY).bind(id.to_string()).execute(&mut session.connection).await?;
            answers.push(removed.rows_affected() > 0);
        }
        Ok(answers)
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 11] = [
    INSTALLATION,
    TOPIC,
    TOPICS,
    THERE,
    PUT_TOPICS,
    SUBSCRIBED,
    REMOVE_TOPIC,
    PUT_KEY,
    KEY,
    KEYS,
    REMOVE_KEY,
];
