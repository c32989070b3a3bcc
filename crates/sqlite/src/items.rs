//! `Items`: one row per message id for ever.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use sqlx::{Row, sqlite::SqliteRow};
use tidings_domain::{
    Result,
    attributes::Attributes,
    id::MessageId,
    item::Item,
    message::Message,
    page::{Page, decode_cursor, encode_cursor},
    ports::{Expired, Inserted, ItemQuery, Items, NewItem},
    text::{Subject, Text},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};
use uuid::Uuid;

use crate::{
    group::{Request, Session},
    retention::Expire,
    rows::{self, Packed, fields},
    shared::{Handle, Shared},
};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT items.id, items.topic, items.message, items.subject, items.content_type, items.attributes,
                items.accepted_at, items.stored_at, items.traceparent, items.tracestate FROM ",
            $rest
        )
    };
}

const GET: &str = select!("json_each(?1) AS wanted CROSS JOIN items ON items.id = wanted.value");

const LIST: &str = select!(
    "items WHERE stored_at >= ?1 AND stored_at < ?2 AND (stored_at, id) < (?3, ?4)
    ORDER BY stored_at DESC, id DESC LIMIT ?5"
);

const LIST_TOPIC: &str = select!(
    "items WHERE topic = ?6 AND stored_at >= ?1 AND stored_at < ?2 AND (stored_at, id) < (?3, ?4)
    ORDER BY stored_at DESC, id DESC LIMIT ?5"
);

const INSERT: &str = "INSERT INTO items
        (id, topic, message, subject, content_type, attributes, accepted_at, stored_at, traceparent, tracestate)
    SELECT value ->> 2, value ->> 3, CAST(substr(?2, 1 + (value ->> 0), value ->> 1) AS TEXT), value ->> 4,
        value ->> 5, value ->> 6, value ->> 7, value ->> 8, value ->> 9, value ->> 10
    FROM json_each(?1)";

const PING: &str = "SELECT id FROM items LIMIT 1";

/// The port.
pub(crate) struct SqliteItems(pub(crate) Arc<Handle>);

#[async_trait]
impl Items for SqliteItems {
    async fn insert(&self, batch: &[NewItem]) -> Result<Vec<Inserted>> {
        match batch.is_empty() {
            true => Ok(Vec::new()),
            false => self.0.write(Insert::new(batch)).await,
        }
    }

    async fn get(&self, ids: &[MessageId]) -> Result<Vec<Option<Item>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let read =
            sqlx::query(GET).bind(rows::ids(ids.iter().map(|id| id.0))).fetch_all(&self.0.readers).await;
        let found: BTreeMap<_, _> = self
            .0
            .read(read, "read items")?
            .iter()
            .filter_map(readable)
            .map(|item| (item.message.id, item))
            .collect();
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    async fn list(&self, query: &ItemQuery) -> Result<Page<Item>> {
        let time = |time: Option<Timestamp>, none: &str| time.map_or(none.to_owned(), |at| at.to_string());
        let (mut at, mut id) = match &query.page.cursor {
            Some(cursor) => {
                let (millis, id) = decode_cursor(cursor)?;
                (Timestamp::from_millis(millis).to_string(), id.to_string())
            }
            None => (AFTER_ALL.to_owned(), String::new()),
        };
        let statement = if query.topic.is_some() { LIST_TOPIC } else { LIST };
        let limit = query.page.limit as usize;
        let mut found = Vec::new();
        loop {
            let wanted = limit.saturating_add(1) - found.len();
            let read = sqlx::query(statement)
                .bind(time(query.since, ""))
                .bind(time(query.until, AFTER_ALL))
                .bind(at)
                .bind(id)
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
                .bind(query.topic.as_ref().map(|topic| topic.as_str().to_owned()))
                .fetch_all(&self.0.readers)
                .await;
            let rows = self.0.read(read, "list items")?;
            found.extend(rows.iter().filter_map(readable));
            // A row that cannot be read does not end the list: the page is filled with those behind it.
            let last = rows.last().filter(|_| rows.len() >= wanted && found.len() <= limit);
            let place =
                last.and_then(|row| Some((rows::text(row, 7)?.to_owned(), rows::text(row, 0)?.to_owned())));
            match place {
                Some(place) => (at, id) = place,
                None => break,
            }
        }
        Ok(Page::cut(found, query.page.limit, |item| {
            encode_cursor(item.stored_at.as_millis(), item.message.id.0)
        }))
    }

    async fn expire(&self, before: Timestamp, max: u32) -> Result<Expired> {
        self.0.write(Expire { before, max }).await
    }

    async fn ping(&self) -> Result<()> {
        let read = sqlx::query(PING).fetch_optional(&self.0.readers).await;
        self.0.read(read, "read an item").map(|_| ())
    }
}

/// A text after every time.
const AFTER_ALL: &str = "~";

/// Items to insert.
pub(crate) struct Insert {
    items: Vec<NewItem>,
    /// What goes into each row beside its message, made in the caller's task.
    fields: Vec<String>,
}

impl Insert {
    fn new(batch: &[NewItem]) -> Self {
        let fields = batch
            .iter()
            .map(|NewItem { message, stored_at }| {
                fields(&(
                    message.id,
                    &message.topic,
                    message.subject.as_ref().map(Subject::as_str),
                    &message.content_type,
                    message.attributes.to_json_text(),
                    message.accepted_at,
                    stored_at,
                    &message.trace.traceparent,
                    &message.trace.tracestate,
                ))
            })
            .collect();
        Self { items: batch.to_vec(), fields }
    }
}

impl Request for Insert {
    type Answer = Vec<Inserted>;

    const WHAT: &'static str = "store items";

    fn rows(&self) -> usize {
        self.items.len()
    }

    fn bytes(&self) -> usize {
        self.items.iter().map(|item| item.message.text.as_str().len()).sum()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Self::Answer>> {
        let all = || requests.iter().flat_map(|request| request.items.iter().zip(&request.fields));
        let ids = rows::ids(all().map(|(item, _)| item.message.id.0));
        let found = sqlx::query(GET).bind(ids).fetch_all(&mut session.connection).await?;
        // What is there, or about to be: of two entries with one id the second is compared with the first.
        let mut there: BTreeMap<MessageId, Option<Message>> = found
            .iter()
            .filter_map(|row| {
                let id = MessageId::parse(rows::text(row, 0)?)?;
                Some((id, readable(row).map(|item| item.message)))
            })
            .collect();
        let mut fresh = Vec::new();
        let answers = requests
            .iter()
            .map(|request| {
                let pairs = request.items.iter().zip(&request.fields);
                pairs
                    .map(|(item, fields)| match there.get(&item.message.id) {
                        Some(Some(row)) if row.says_the_same_as(&item.message) => Inserted::AlreadyThere,
                        Some(_) => Inserted::Conflict,
                        None => {
                            there.insert(item.message.id, Some(item.message.clone()));
                            fresh.push((item, fields));
                            Inserted::New
                        }
                    })
                    .collect()
            })
            .collect();
        fresh.sort_by_key(|(item, _)| item.message.id);
        if !fresh.is_empty() {
            let mut packed = Packed::default();
            for (item, fields) in fresh {
                packed.row(item.message.text.as_str().as_bytes(), fields);
            }
            let (json, bytes) = packed.into_parameters();
            sqlx::query(INSERT).bind(json).bind(bytes).execute(&mut session.connection).await?;
        }
        Ok(answers)
    }

    fn committed(self, _answer: &mut Self::Answer, shared: &Shared) {
        shared.changed.notify_waiters();
    }
}

/// Reads a row whose first ten columns are an item's; one that is broken is left out and told of: only a hand in the file can
/// have broken it.
fn readable(row: &SqliteRow) -> Option<Item> {
    match read(row, 0) {
        Ok(item) => Some(item),
        Err(reason) => {
            let id = rows::text(row, 0).and_then(|id| Uuid::try_parse(id).ok());
            tracing::warn!(item = ?id, reason, "an item's row cannot be read");
            None
        }
    }
}

/// Reads an item from ten columns, or says what is wrong with it.
pub(crate) fn read(row: &SqliteRow, first: usize) -> std::result::Result<Item, String> {
    let bytes = |column: usize, name: &str| {
        row.try_get::<Option<&[u8]>, _>(first + column).map_err(|error| format!("{name}: {error}"))
    };
    let text = |column: usize, name: &str| match bytes(column, name)? {
        Some(bytes) => {
            std::str::from_utf8(bytes).map(Some).map_err(|_| format!("{name}: the text is not UTF-8"))
        }
        None => Ok(None),
    };
    let needed = |column: usize, name: &str| text(column, name)?.ok_or_else(|| format!("{name} is absent"));
    let time = |column: usize, name: &str| {
        Timestamp::parse(needed(column, name)?).ok_or_else(|| format!("{name}: not a time in RFC 3339"))
    };
    let message = bytes(2, "message")?.ok_or("message is absent")?;
    let subject = text(3, "subject")?.map(Subject::parse).transpose();
    let message = Message {
        id: MessageId::parse(needed(0, "id")?).ok_or("id: not a UUID")?,
        topic: TopicName::parse(needed(1, "topic")?).map_err(|error| format!("topic: {error}"))?,
        text: Text::from_bytes(message).map_err(|error| format!("message: {error}"))?,
        subject: subject.map_err(|error| format!("subject: {error}"))?,
        content_type: needed(4, "content_type")?.to_owned(),
        attributes: Attributes::from_json_text(needed(5, "attributes")?)
            .map_err(|error| format!("attributes: {error}"))?,
        accepted_at: time(6, "accepted_at")?,
        trace: TraceContext::parse(text(8, "traceparent")?, text(9, "tracestate")?),
    };
    Ok(Item { message, stored_at: time(7, "stored_at")? })
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 5] = [GET, LIST, LIST_TOPIC, INSERT, PING];
