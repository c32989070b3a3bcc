//! `Topology`: the tables of the queues always stand; a topic stands when it has a row.

use std::sync::Arc;

use async_trait::async_trait;
use tidings_domain::{
    Result,
    ports::{BusTopic, MissingTopology, Topology},
    topic::TopicName,
};

use crate::{
    group::{Request, Session},
    rows::to_json,
    shared::Handle,
};

/// All that stand.
pub(crate) const TOPICS: &str = "SELECT name FROM bus_topics ORDER BY name";

/// Which of the given ones stand.
pub(crate) const STANDING: &str =
    "SELECT value FROM json_each(?1) WHERE value IN (SELECT name FROM bus_topics)";

/// Makes those stand that do not.
pub(crate) const DECLARE: &str =
    "INSERT INTO bus_topics (name) SELECT value FROM json_each(?1) WHERE true ON CONFLICT (name) DO NOTHING";

/// The full name of a topic.
pub(crate) fn name(namespace: &str, topic: &BusTopic) -> String {
    match topic {
        BusTopic::Messages(name) => format!("{namespace}-topic-{name}"),
        BusTopic::Notifications => format!("{namespace}-notifications"),
    }
}

/// The full names of the notifications topic and of `topics`.
pub(crate) fn names(namespace: &str, topics: &[TopicName]) -> Vec<String> {
    let topics = topics.iter().cloned().map(BusTopic::Messages);
    std::iter::once(BusTopic::Notifications).chain(topics).map(|topic| name(namespace, &topic)).collect()
}

/// The port.
pub(crate) struct SqliteTopology(pub(crate) Arc<Handle>);

#[async_trait]
impl Topology for SqliteTopology {
    async fn declare(&self, topics: &[TopicName]) -> Result<()> {
        // Declared again every few seconds: what stands is not written again.
        let missing = self.verify(topics).await?;
        let names: Vec<_> = missing.into_iter().map(|missing| missing.name).collect();
        match names.is_empty() {
            true => Ok(()),
            false => self.0.write(Declare { names }).await,
        }
    }

    async fn verify(&self, topics: &[TopicName]) -> Result<Vec<MissingTopology>> {
        let read = sqlx::query_scalar::<_, String>(TOPICS).fetch_all(&self.0.readers).await;
        let standing = self.0.read(read, "read the topology")?;
        let mut missing = names(&self.0.shared.namespace, topics);
        missing.retain(|name| !standing.contains(name));
        Ok(missing.into_iter().map(|name| MissingTopology { name }).collect())
    }
}

/// Topics that are to stand.
pub(crate) struct Declare {
    names: Vec<String>,
}

impl Request for Declare {
    type Answer = ();

    const WHAT: &'static str = "declare topics";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        let names: Vec<_> = requests.iter().flat_map(|request| &request.names).collect();
        sqlx::query(DECLARE).bind(to_json(&names)).execute(&mut session.connection).await?;
        Ok(vec![(); requests.len()])
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 3] = [TOPICS, STANDING, DECLARE];
