//! `Items`: one row per message id for ever.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use sqlx::postgres::PgRow;
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
    group::{Lane, Request},
    pool::Session,
    retention,
    rows::{self, Time},
    shared::Shared,
};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT items.id, items.topic, items.message, items.subject, items.content_type, items.attributes::text,
                items.accepted_at, items.stored_at, items.traceparent, items.tracestate FROM ",
            $rest
        )
    };
}

const GET: &str = select!("unnest($1::uuid[]) AS wanted (id) JOIN items ON items.id = wanted.id");

const LIST: &str = select!(
    "items WHERE stored_at >= coalesce($1::timestamptz, '-infinity') AND stored_at < coalesce($2::timestamptz, 'infinity')
    AND (stored_at, id) < (coalesce($3::timestamptz, 'infinity'), $4) ORDER BY stored_at DESC, id DESC LIMIT $5"
);

const LIST_TOPIC: &str = select!(
    "items WHERE topic = $6 AND stored_at >= coalesce($1::timestamptz, '-infinity') AND stored_at < coalesce($2::timestamptz, 'infinity')
    AND (stored_at, id) < (coalesce($3::timestamptz, 'infinity'), $4) ORDER BY stored_at DESC, id DESC LIMIT $5"
);

const INSERT: &str = "INSERT INTO items
        (id, topic, message, subject, content_type, attributes, accepted_at, stored_at, traceparent, tracestate)
    SELECT id, topic, message, subject, content_type, attributes::json, accepted_at, stored_at, traceparent, tracestate
    FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::timestamptz[],
        $8::timestamptz[], $9::text[], $10::text[])
        AS new (id, topic, message, subject, content_type, attributes, accepted_at, stored_at, traceparent, tracestate)
    ON CONFLICT (id) DO NOTHING RETURNING id";

const PING: &str = "SELECT id FROM items LIMIT 1";

/// How often a row that was there and is gone when it is looked at (retention took it) is inserted again.
const REPEATS: u32 = 3;

/// The port.
pub(crate) struct PostgresItems {
    pub(crate) shared: Arc<Shared>,
    pub(crate) inserts: Arc<Lane<Insert>>,
}

#[async_trait]
impl Items for PostgresItems {
    async fn insert(&self, batch: &[NewItem]) -> Result<Vec<Inserted>> {
        match batch.is_empty() {
            true => Ok(Vec::new()),
            false => self.inserts.write(Insert { items: batch.to_vec() }).await,
        }
    }

    async fn get(&self, ids: &[MessageId]) -> Result<Vec<Option<Item>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let found = self.shared.read("read items", sqlx::query(GET).bind(wanted)).await?;
        let found: BTreeMap<_, _> =
            found.iter().filter_map(|row| self.whole(row)).map(|item| (item.message.id, item)).collect();
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    async fn list(&self, query: &ItemQuery) -> Result<Page<Item>> {
        let (mut at, mut id) = match &query.page.cursor {
            Some(cursor) => {
                let (millis, id) = decode_cursor(cursor)?;
                (Some(Time(Timestamp::from_millis(millis))), id)
            }
            None => (None, Uuid::max()),
        };
        let limit = query.page.limit as usize;
        let mut found = Vec::new();
        loop {
            let wanted = limit.saturating_add(1) - found.len();
            let statement = sqlx::query(if query.topic.is_some() { LIST_TOPIC } else { LIST })
                .bind(query.since.map(Time))
                .bind(query.until.map(Time))
                .bind(at)
                .bind(id)
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX));
            let statement = match &query.topic {
                Some(topic) => statement.bind(topic.as_str().to_owned()),
                None => statement,
            };
            let rows = self.shared.read("list items", statement).await?;
            found.extend(rows.iter().filter_map(|row| self.whole(row)));
            // A row that cannot be read does not end the list: the page is filled with those behind it.
            let last = rows.last().filter(|_| rows.len() >= wanted && found.len() <= limit);
            let place = last.and_then(|row| Some((rows::optional_time(row, 7)?, rows::optional_id(row, 0)?)));
            match place {
                Some(place) => (at, id) = (Some(Time(place.0)), place.1),
                None => break,
            }
        }
        Ok(Page::cut(found, query.page.limit, |item| {
            encode_cursor(item.stored_at.as_millis(), item.message.id.0)
        }))
    }

    async fn expire(&self, before: Timestamp, max: u32) -> Result<Expired> {
        retention::expire(&self.shared, before, max).await
    }

    async fn ping(&self) -> Result<()> {
        self.shared.read("read an item", sqlx::query(PING)).await.map(|_| ())
    }
}

impl PostgresItems {
    /// The row's item; none where a hand in the database has broken it, which is told once.
    fn whole(&self, row: &PgRow) -> Option<Item> {
        match read(row) {
            Ok(item) => Some(item),
            Err(reason) => {
                let id = rows::optional_id(row, 0).unwrap_or_default();
                if self.shared.is_news(id) {
                    tracing::warn!(item = %id, reason, "an item's row cannot be read");
                }
                None
            }
        }
    }
}

/// Items to insert.
pub(crate) struct Insert {
    items: Vec<NewItem>,
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
        // Of two entries with one id the first is inserted and the second compared with it.
        let mut first: BTreeMap<MessageId, &NewItem> = BTreeMap::new();
        for item in requests.iter().flat_map(|request| &request.items) {
            first.entry(item.message.id).or_insert(item);
        }
        let mut missing: Vec<&NewItem> = first.values().copied().collect();
        // What is there under each id; an id that we inserted has what we inserted.
        let mut there: BTreeMap<MessageId, Option<Message>> = BTreeMap::new();
        let mut made = std::collections::BTreeSet::new();
        for _ in 0..REPEATS {
            let inserted = session.rows(insert(&missing)).await?;
            made.extend(inserted.iter().filter_map(|row| rows::optional_id(row, 0)));
            missing.retain(|item| !made.contains(&item.message.id.0));
            if missing.is_empty() {
                break;
            }
            let ids: Vec<Uuid> = missing.iter().map(|item| item.message.id.0).collect();
            let found = session.rows(sqlx::query(GET).bind(ids)).await?;
            there.extend(found.iter().filter_map(|row| {
                Some((MessageId(rows::optional_id(row, 0)?), read(row).ok().map(|item| item.message)))
            }));
            missing.retain(|item| !there.contains_key(&item.message.id));
            if missing.is_empty() {
                break;
            }
        }
        let mut answered = std::collections::BTreeSet::new();
        let mut answer = |item: &NewItem| {
            let id = item.message.id;
            if answered.insert(id) && made.contains(&id.0) {
                return Inserted::New;
            }
            let row = match there.get(&id) {
                Some(row) => row.as_ref(),
                None => first.get(&id).map(|first| &first.message),
            };
            match row {
                Some(row) if row.says_the_same_as(&item.message) => Inserted::AlreadyThere,
                _ => Inserted::Conflict,
            }
        };
        if !missing.is_empty() {
            // Nothing of the sort happens but by a hand in the database: rows that come and go under our eyes.
            return Err(sqlx::Error::Protocol("rows were there and gone at every look".to_owned()));
        }
        Ok(requests.iter().map(|request| request.items.iter().map(&mut answer).collect()).collect())
    }
}

/// The statement that inserts `items`, sorted by their ids.
fn insert(items: &[&NewItem]) -> crate::pool::Statement {
    let texts = |of: fn(&Message) -> &str| -> Vec<String> {
        items.iter().map(|item| of(&item.message).to_owned()).collect()
    };
    let optional = |of: fn(&Message) -> Option<&str>| -> Vec<Option<String>> {
        items.iter().map(|item| of(&item.message).map(str::to_owned)).collect()
    };
    sqlx::query(INSERT)
        .bind(items.iter().map(|item| item.message.id.0).collect::<Vec<Uuid>>())
        .bind(texts(|message| message.topic.as_str()))
        .bind(texts(|message| message.text.as_str()))
        .bind(optional(|message| message.subject.as_ref().map(Subject::as_str)))
        .bind(texts(|message| &message.content_type))
        .bind(items.iter().map(|item| item.message.attributes.to_json_text()).collect::<Vec<_>>())
        .bind(items.iter().map(|item| Time(item.message.accepted_at)).collect::<Vec<_>>())
        .bind(items.iter().map(|item| Time(item.stored_at)).collect::<Vec<_>>())
        .bind(optional(|message| message.trace.traceparent.as_deref()))
        .bind(optional(|message| message.trace.tracestate.as_deref()))
}

/// Reads an item, or says what is wrong with it.
fn read(row: &PgRow) -> std::result::Result<Item, String> {
    let needed =
        |column: usize, name: &str| rows::text(row, column).ok_or_else(|| format!("{name} is absent"));
    let time = |column: usize, name: &str| {
        rows::optional_time(row, column).ok_or_else(|| format!("{name} is no time"))
    };
    let subject = rows::text(row, 3).map(Subject::parse).transpose();
    let message = Message {
        id: MessageId(rows::optional_id(row, 0).ok_or("id: not a UUID")?),
        topic: TopicName::parse(needed(1, "topic")?).map_err(|error| format!("topic: {error}"))?,
        text: Text::parse(needed(2, "message")?).map_err(|error| format!("message: {error}"))?,
        subject: subject.map_err(|error| format!("subject: {error}"))?,
        content_type: needed(4, "content_type")?.to_owned(),
        attributes: Attributes::from_json_text(needed(5, "attributes")?)
            .map_err(|error| format!("attributes: {error}"))?,
        accepted_at: time(6, "accepted_at")?,
        trace: TraceContext::parse(rows::text(row, 8), rows::text(row, 9)),
    };
    Ok(Item { message, stored_at: time(7, "stored_at")? })
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 5] = [GET, LIST, LIST_TOPIC, INSERT, PING];
