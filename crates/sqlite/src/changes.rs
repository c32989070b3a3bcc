//! `Changes`: the log that a trigger writes in the item's own transaction.
//!
//! SQLite's writers come one after another, so that the order of numbers is the order of commits: nothing is ever skipped.
//! Our own commits wake the stream at once; the writer looks for those of other programs every 50 ms.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::Row;
use tidings_domain::{
    Result,
    id::MessageId,
    item::Change,
    ports::{Captured, ChangeStream, Changes, Dependency as _, DependencyState, Position, UnreadableChange},
    topic::TopicName,
};
use tokio::{
    sync::OwnedMutexGuard,
    time::{Instant, timeout_at},
};

use crate::{
    group::{Request, Session},
    items,
    rows::{self, to_json},
    shared::Handle,
};

const NEXT: &str =
    "SELECT changes.number, items.id, items.topic, items.message, items.subject, items.content_type,
        items.attributes, items.accepted_at, items.stored_at, items.traceparent, items.tracestate
    FROM changes LEFT JOIN items ON items.id = changes.id
    WHERE changes.number > ?1 ORDER BY changes.number LIMIT ?2";

const CONFIRM: &str = "DELETE FROM changes WHERE number <= ?1";

const FORGET: &str = "DELETE FROM changes WHERE number IN (SELECT value FROM json_each(?1))";

const BACKLOG: &str = "SELECT count(*) FROM changes";

/// Entries that one read brings, so that a long backlog does not fill the memory.
const MAX_READ: usize = 256;

/// The port.
pub(crate) struct SqliteChanges(pub(crate) Arc<Handle>);

#[async_trait]
impl Changes for SqliteChanges {
    async fn open(&self) -> Result<Box<dyn ChangeStream>> {
        let shared = &self.0.shared;
        let stream = Arc::clone(&shared.stream);
        let held = match Arc::clone(&stream).try_lock_owned() {
            Ok(held) => held,
            Err(_) => {
                let _standing_by = shared.health.stand_by();
                stream.lock_owned().await
            }
        };
        Ok(Box::new(SqliteChangeStream { handle: Arc::clone(&self.0), read: 0, _held: held }))
    }

    fn is_standing_by(&self) -> bool {
        self.0.shared.health.state() == DependencyState::StandingBy
    }

    async fn backlog(&self) -> Result<u64> {
        let read = sqlx::query_scalar::<_, i64>(BACKLOG).fetch_one(&self.0.readers).await;
        Ok(u64::try_from(self.0.read(read, "count changes")?).unwrap_or_default())
    }
}

/// The open stream.
struct SqliteChangeStream {
    handle: Arc<Handle>,
    /// The last number that was handed out.
    read: i64,
    _held: OwnedMutexGuard<()>,
}

#[async_trait]
impl ChangeStream for SqliteChangeStream {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Captured>> {
        let deadline = Instant::now() + wait;
        let handle = Arc::clone(&self.handle);
        loop {
            let mut changed = std::pin::pin!(handle.shared.changed.notified());
            changed.as_mut().enable();
            let captured = self.read(max.min(MAX_READ)).await?;
            if !captured.is_empty() || max == 0 {
                return Ok(captured);
            }
            if timeout_at(deadline, changed).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn confirm(&mut self, up_to: Position) -> Result<()> {
        let up_to = i64::try_from(up_to.offset).unwrap_or(i64::MAX);
        self.handle.write(Confirm { up_to }).await
    }
}

impl SqliteChangeStream {
    /// The next entries without waiting. What a dropped call had read is read again: `read` moves at the end.
    async fn read(&mut self, max: usize) -> Result<Vec<Captured>> {
        loop {
            let read = sqlx::query(NEXT)
                .bind(self.read)
                .bind(i64::try_from(max).unwrap_or(i64::MAX))
                .fetch_all(&self.handle.readers)
                .await;
            let found = self.handle.read(read, "read changes")?;
            let captured_at = self.handle.shared.clock.now();
            let mut last = self.read;
            let mut captured = VecDeque::with_capacity(found.len());
            let mut gone = Vec::new();
            for row in &found {
                last = rows::number(row, 0, "change number")?;
                let offset = u64::try_from(last).unwrap_or_default();
                if row.try_get::<Option<&[u8]>, _>(1).ok().flatten().is_none() {
                    gone.push(last);
                    continue;
                }
                let size_bytes = (1..=10)
                    .map(|column| {
                        row.try_get::<Option<&[u8]>, _>(column).ok().flatten().map_or(0, <[u8]>::len)
                    })
                    .sum::<usize>() as u64;
                let content = match items::read(row, 1) {
                    Ok(item) => Ok(Change {
                        event_id: format!("sqlite:{last}"),
                        sequence_number: last.to_string(),
                        item,
                        size_bytes,
                        captured_at,
                    }),
                    Err(detail) => Err(UnreadableChange {
                        message_id: rows::text(row, 1).and_then(MessageId::parse),
                        topic: rows::text(row, 2).and_then(|name| TopicName::parse(name).ok()),
                        bytes: raw(row),
                        detail,
                    }),
                };
                captured.push_back(Captured { position: Position { partition: 0, offset }, content });
            }
            self.read = last;
            if !gone.is_empty() {
                // Someone took the item out before it was seen: there is nothing to tell anyone.
                tracing::warn!(changes = gone.len(), "items were removed before their changes were read");
                self.handle.writer.write_later(Forget { numbers: gone });
            }
            if !captured.is_empty() || found.is_empty() {
                return Ok(captured.into());
            }
        }
    }
}

/// A row that is no item, for its dead letter: its columns as JSON, with replacement where they are no text.
fn raw(row: &sqlx::sqlite::SqliteRow) -> Bytes {
    const NAMES: [&str; 10] = [
        "id",
        "topic",
        "message",
        "subject",
        "content_type",
        "attributes",
        "accepted_at",
        "stored_at",
        "traceparent",
        "tracestate",
    ];
    let columns = NAMES.iter().enumerate().filter_map(|(index, name)| {
        let bytes = row.try_get::<Option<&[u8]>, _>(index + 1).ok().flatten()?;
        Some(((*name).to_owned(), serde_json::Value::from(String::from_utf8_lossy(bytes))))
    });
    let object: serde_json::Map<_, _> = columns.collect();
    Bytes::from(to_json(&object))
}

/// The new durable position.
pub(crate) struct Confirm {
    up_to: i64,
}

impl Request for Confirm {
    type Answer = ();

    const WHAT: &'static str = "confirm changes";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        let up_to = requests.iter().map(|request| request.up_to).max().unwrap_or_default();
        sqlx::query(CONFIRM).bind(up_to).execute(&mut session.connection).await?;
        Ok(vec![(); requests.len()])
    }
}

/// Changes of items that are gone.
pub(crate) struct Forget {
    numbers: Vec<i64>,
}

impl Request for Forget {
    type Answer = ();

    const WHAT: &'static str = "forget changes";

    fn rows(&self) -> usize {
        self.numbers.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        let numbers: Vec<_> = requests.iter().flat_map(|request| &request.numbers).collect();
        sqlx::query(FORGET).bind(to_json(&numbers)).execute(&mut session.connection).await?;
        Ok(vec![(); requests.len()])
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 4] = [NEXT, CONFIRM, FORGET, BACKLOG];
