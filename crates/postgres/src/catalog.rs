//! `Catalog`: topics, API keys, and what provisioning wrote.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Row as _, postgres::PgRow};
use tidings_domain::{
    Error, ErrorKind, Result,
    api_key::{ApiKey, KeyHash},
    id::ApiKeyId,
    ports::{Catalog, Installation, RemovedTopic},
    text::Subject,
    token::Secret,
    topic::{MESSAGES, Topic, TopicName},
};

use crate::{
    fault::{self, readable},
    rows::{self, Time, escape, to_json, unescape},
    shared::Shared,
    store::same_namespace,
};

const INSTALLATION: &str = "SELECT version, secret, namespace FROM installation WHERE version IS NOT NULL";

const TOPIC: &str = "SELECT name, subject, created_at FROM topics WHERE name = $1";

const TOPICS: &str = "SELECT name, subject, created_at FROM topics ORDER BY name COLLATE \"C\"";

/// A row that was inserted has no older version: `xmax` is 0.
const PUT_TOPIC: &str = "INSERT INTO topics AS t (name, subject, created_at) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET subject = excluded.subject
    RETURNING t.name, t.subject, t.created_at, t.xmax = 0";

const REMOVE_TOPIC: &str = "WITH subscribed AS MATERIALIZED (
        SELECT EXISTS (
            SELECT 1 FROM subscriptions WHERE topic = $1 AND state IN ('pending', 'confirmed')
        ) AS is_so
    ), removed AS (
        DELETE FROM topics USING subscribed WHERE name = $1 AND NOT is_so RETURNING name
    )
    SELECT EXISTS (SELECT 1 FROM removed), EXISTS (SELECT 1 FROM topics WHERE name = $1)";

const PUT_KEY: &str = "INSERT INTO api_keys (id, hash, owner, scopes, topics, created_at)
    VALUES ($1, $2, $3, $4::text::json, $5::text::json, $6) ON CONFLICT DO NOTHING RETURNING id";

const KEY: &str =
    "SELECT id, hash, owner, scopes::text, topics::text, created_at FROM api_keys WHERE hash = $1";

const KEYS: &str = "SELECT id, hash, owner, scopes::text, topics::text, created_at FROM api_keys
    ORDER BY created_at DESC, id DESC";

const REMOVE_KEY: &str = "DELETE FROM api_keys WHERE id = $1 RETURNING id";

/// The port.
pub(crate) struct PostgresCatalog(pub(crate) Arc<Shared>);

#[async_trait]
impl Catalog for PostgresCatalog {
    async fn installation(&self) -> Result<Option<Installation>> {
        let found = match self.0.look("read the installation", sqlx::query(INSTALLATION)).await {
            // Provisioning has not run. The server answers.
            Err(error) if is_about_no_table(&error) => Ok(Vec::new()),
            found => found,
        };
        let found = self.0.note(found)?;
        let Some(row) = found.first() else { return Ok(None) };
        same_namespace(readable(rows::text(row, 2), "namespace")?, &self.0.options.namespace)?;
        let secret = row.try_get::<Vec<u8>, _>(1).ok().and_then(|bytes| bytes.try_into().ok());
        Ok(Some(Installation {
            version: rows::number(row, 0, "version")?,
            secret: Secret::new(readable(secret, "secret")?),
        }))
    }

    async fn put_topic(&self, topic: &Topic) -> Result<(Topic, bool)> {
        let statement = || {
            sqlx::query(PUT_TOPIC)
                .bind(topic.name.as_str().to_owned())
                .bind(topic.subject.as_ref().map(|subject| subject.as_str().to_owned()))
                .bind(Time(topic.created_at))
        };
        let rows = self.0.write("put a topic", statement).await?;
        let row = readable(rows.first(), "topic")?;
        Ok((self::topic(row)?, rows::flag(row, 3, "mark")?))
    }

    async fn topic(&self, name: &TopicName) -> Result<Option<Topic>> {
        let statement = sqlx::query(TOPIC).bind(name.as_str().to_owned());
        self.0.read_one("read a topic", statement).await?.as_ref().map(topic).transpose()
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        self.0.read("read the topics", sqlx::query(TOPICS)).await?.iter().map(topic).collect()
    }

    async fn remove_topic(&self, name: &TopicName) -> Result<RemovedTopic> {
        if name.as_str() == MESSAGES {
            return Err(Error::rejected("the topic messages always exists"));
        }
        let statement = || sqlx::query(REMOVE_TOPIC).bind(name.as_str().to_owned());
        let rows = self.0.write("remove a topic", statement).await?;
        let row = readable(rows.first(), "topic")?;
        Ok(match (rows::flag(row, 0, "mark")?, rows::flag(row, 1, "mark")?) {
            (true, _) => RemovedTopic::Removed,
            (false, true) => RemovedTopic::HasSubscribers,
            (false, false) => RemovedTopic::NotFound,
        })
    }

    async fn put_key(&self, key: &ApiKey) -> Result<()> {
        let statement = || {
            sqlx::query(PUT_KEY)
                .bind(key.id.0)
                .bind(key.hash.0.to_vec())
                .bind(escape(&key.owner))
                .bind(to_json(&key.scopes))
                .bind(to_json(&key.topics))
                .bind(Time(key.created_at))
        };
        match self.0.write("make a key", statement).await?.is_empty() {
            false => Ok(()),
            true => Err(Error::conflict("the key's id or hash is taken")),
        }
    }

    async fn key(&self, hash: &KeyHash) -> Result<Option<ApiKey>> {
        let statement = sqlx::query(KEY).bind(hash.0.to_vec());
        self.0.read_one("read a key", statement).await?.as_ref().map(key).transpose()
    }

    async fn keys(&self) -> Result<Vec<ApiKey>> {
        self.0.read("read the keys", sqlx::query(KEYS)).await?.iter().map(key).collect()
    }

    async fn remove_key(&self, id: ApiKeyId) -> Result<bool> {
        let statement = || sqlx::query(REMOVE_KEY).bind(id.0);
        Ok(!self.0.write("remove a key", statement).await?.is_empty())
    }
}

/// Whether there is no such table: told by the SQLSTATE of the cause.
fn is_about_no_table(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<sqlx::Error>());
    error.kind == ErrorKind::Misconfigured
        && source.and_then(fault::sqlstate).as_deref() == Some(fault::code::UNDEFINED_TABLE)
}

fn topic(row: &PgRow) -> Result<Topic> {
    let name = rows::text(row, 0).and_then(|name| TopicName::parse(name).ok());
    Ok(Topic {
        name: readable(name, "topic name")?,
        subject: rows::text(row, 1).and_then(|subject| Subject::parse(subject).ok()),
        created_at: rows::time(row, 2, "time")?,
    })
}

fn key(row: &PgRow) -> Result<ApiKey> {
    let hash = row.try_get::<Vec<u8>, _>(1).ok().and_then(|bytes| bytes.try_into().ok());
    let read = |column| rows::json(row, column, "list");
    Ok(ApiKey {
        id: ApiKeyId(rows::id(row, 0, "key id")?),
        hash: KeyHash(readable(hash, "key hash")?),
        owner: unescape(readable(rows::text(row, 2), "owner")?),
        scopes: readable(serde_json::from_value(read(3)?).ok(), "scopes")?,
        topics: readable(serde_json::from_value(read(4)?).ok(), "topics")?,
        created_at: rows::time(row, 5, "time")?,
    })
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 9] =
    [INSTALLATION, TOPIC, TOPICS, PUT_TOPIC, REMOVE_TOPIC, PUT_KEY, KEY, KEYS, REMOVE_KEY];
