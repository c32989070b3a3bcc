//! `DeadLetters`: what cannot go on, with its reason.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{
    Row, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};
use tidings_domain::{
    Result,
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource},
    delivery::{DeliveryKey, LeaseToken},
    id::{DeadLetterId, SubscriptionId},
    page::{Page, PageRequest, decode_cursor, encode_cursor},
    ports::{ClaimedDeadLetter, DeadLetterDepth, DeadLetters},
    time::Timestamp,
    topic::TopicName,
};

use crate::{
    fault::readable,
    group::{Request, Session},
    rows::{self, Packed, fields},
    shared::Handle,
};

/// The columns of [`letter`], in order.
macro_rules! columns {
    () => {
        "id, source, topic, message_id, about, subscription, round, reason, detail, attempts, created_at, marked_at, \
         headers, body"
    };
}

/// A selection as SQL: `?1` to `?5`; what is null does not restrict.
macro_rules! selected {
    () => {
        "(?1 IS NULL OR source = ?1) AND (?2 IS NULL OR topic = ?2) AND (?3 IS NULL OR reason = ?3)
        AND (?4 IS NULL OR message_id = ?4) AND (?5 IS NULL OR id IN (SELECT value FROM json_each(?5)))"
    };
}

const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM dead_letters WHERE ",
    selected!(),
    " AND (created_at, id) < (?6, ?7) ORDER BY created_at DESC, id DESC LIMIT ?8"
);

const COUNT: &str = concat!("SELECT count(*) FROM dead_letters WHERE ", selected!());

const MARK: &str =
    concat!("UPDATE dead_letters SET marked_at = ?6 WHERE marked_at IS NULL AND ", selected!());

const DISCARD: &str = concat!("DELETE FROM dead_letters WHERE ", selected!());

const DEPTHS: &str = "SELECT source, reason, count(*), min(created_at) FROM dead_letters
    GROUP BY source, reason ORDER BY source, reason";

macro_rules! insert {
    ($conflict:literal) => {
        concat!(
            "INSERT INTO dead_letters (id, source, topic, message_id, about, subscription, round, reason, detail,
                attempts, created_at, marked_at, headers, body)
            SELECT value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7, value ->> 8,
                value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value -> 14,
                substr(?2, 1 + (value ->> 0), value ->> 1)
            FROM json_each(?1) WHERE true ON CONFLICT (id) ",
            $conflict
        )
    };
}

const PUT: &str = insert!("DO NOTHING");

const REWRITE: &str = insert!(
    "DO UPDATE SET source = excluded.source, topic = excluded.topic, message_id = excluded.message_id,
    about = excluded.about, subscription = excluded.subscription, round = excluded.round,
    reason = excluded.reason, detail = excluded.detail, attempts = excluded.attempts,
    created_at = excluded.created_at, marked_at = NULL, lease_token = NULL, lease_until = NULL,
    headers = excluded.headers, body = excluded.body"
);

const CLAIM: &str = concat!(
    "UPDATE dead_letters SET lease_token = ?1, lease_until = ?2 WHERE id IN (
        SELECT id FROM dead_letters WHERE source = ?3 AND marked_at IS NOT NULL
            AND (lease_until IS NULL OR lease_until <= ?4)
        ORDER BY marked_at LIMIT ?5
    ) RETURNING ",
    columns!()
);

const HELD: &str = "SELECT letter.id, letter.lease_token FROM json_each(?1) AS settled
    CROSS JOIN dead_letters AS letter ON letter.id = settled.value ->> 0 AND letter.lease_token = settled.value ->> 1";

const REMOVE: &str = "DELETE FROM dead_letters WHERE id IN (SELECT value FROM json_each(?1))";

/// The port.
pub(crate) struct SqliteDeadLetters(pub(crate) Arc<Handle>);

#[async_trait]
impl DeadLetters for SqliteDeadLetters {
    async fn put(&self, letters: Vec<DeadLetter>) -> Result<()> {
        match letters.is_empty() {
            true => Ok(()),
            false => self.0.write(PutLetters { letters }).await,
        }
    }

    async fn list(&self, selection: &DeadLetterSelection, page: &PageRequest) -> Result<Page<DeadLetter>> {
        let (millis, id) = match &page.cursor {
            Some(cursor) => decode_cursor(cursor).map(|(millis, id)| (millis, id.to_string()))?,
            None => (i64::MAX, String::new()),
        };
        let read = select(LIST, selection)
            .bind(millis)
            .bind(id)
            .bind(i64::from(page.limit) + 1)
            .fetch_all(&self.0.readers)
            .await;
        let found = self.0.read(read, "list dead letters")?.iter().map(letter).collect::<Result<_>>()?;
        Ok(Page::cut(found, page.limit, |letter: &DeadLetter| {
            encode_cursor(letter.created_at.as_millis(), letter.id.0)
        }))
    }

    async fn mark(&self, selection: &DeadLetterSelection, at: Timestamp) -> Result<u64> {
        self.0.write(Mark { selection: selection.clone(), at }).await
    }

    async fn count(&self, selection: &DeadLetterSelection) -> Result<u64> {
        let read = select(COUNT, selection).fetch_one(&self.0.readers).await;
        rows::number(&self.0.read(read, "count dead letters")?, 0, "count")
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64> {
        self.0.write(Discard { selection: selection.clone() }).await
    }

    async fn claim(
        &self,
        source: DeadLetterSource,
        max: u32,
        token: LeaseToken,
        at: Timestamp,
        lease: Duration,
    ) -> Result<Vec<ClaimedDeadLetter>> {
        // Services ask every few seconds: nothing is written where nothing is marked.
        let marked = DeadLetterSelection { source: Some(source), ..DeadLetterSelection::default() };
        let read = select(MARKED, &marked).fetch_one(&self.0.readers).await;
        let any: bool = self.0.read(read, "look for marked dead letters")?.try_get(0).unwrap_or(true);
        match any && max > 0 {
            true => self.0.write(ClaimLetters { source, max, token, at, until: at.plus(lease) }).await,
            false => Ok(Vec::new()),
        }
    }

    async fn settle(&self, settled: Vec<(DeadLetterId, LeaseToken, Option<DeadLetter>)>) -> Result<()> {
        match settled.is_empty() {
            true => Ok(()),
            false => self.0.write(SettleLetters { settled }).await,
        }
    }

    async fn depths(&self) -> Result<Vec<DeadLetterDepth>> {
        let read = sqlx::query(DEPTHS).fetch_all(&self.0.readers).await;
        self.0
            .read(read, "count dead letters")?
            .iter()
            .map(|row| {
                Ok(DeadLetterDepth {
                    source: readable(rows::text(row, 0).and_then(DeadLetterSource::parse), "source")?,
                    reason: readable(rows::text(row, 1), "reason")?.to_owned(),
                    count: rows::number(row, 2, "count")?,
                    oldest_at: rows::time(row, 3, "time")?,
                })
            })
            .collect()
    }
}

const MARKED: &str = "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE source = ?1 AND marked_at IS NOT NULL)";

/// A statement with a selection bound.
fn select(
    statement: &'static str,
    selection: &DeadLetterSelection,
) -> Query<'static, Sqlite, SqliteArguments> {
    sqlx::query(statement)
        .bind(selection.source.map(DeadLetterSource::as_str))
        .bind(selection.topic.as_ref().map(|topic| topic.as_str().to_owned()))
        .bind(selection.reason.clone())
        .bind(selection.message_id.map(|id| id.to_string()))
        .bind(selection.ids.as_ref().map(|ids| rows::ids(ids.iter().map(|id| id.0))))
}

/// Reads a row of [`columns`].
fn letter(row: &SqliteRow) -> Result<DeadLetter> {
    let optional_id = |column| rows::text(row, column).and_then(|id| uuid::Uuid::try_parse(id).ok());
    let delivery = match (optional_id(4), optional_id(5)) {
        (Some(about), Some(subscription)) => Some(DeliveryKey {
            about,
            subscription: SubscriptionId(subscription),
            round: rows::number(row, 6, "round")?,
        }),
        _ => None,
    };
    Ok(DeadLetter {
        id: DeadLetterId(rows::id(row, 0, "id")?),
        source: readable(rows::text(row, 1).and_then(DeadLetterSource::parse), "source")?,
        topic: rows::text(row, 2).and_then(|name| TopicName::parse(name).ok()),
        message_id: optional_id(3),
        delivery,
        reason: readable(rows::text(row, 7), "reason")?.to_owned(),
        detail: readable(rows::text(row, 8), "detail")?.to_owned(),
        attempts: rows::number(row, 9, "count")?,
        created_at: rows::time(row, 10, "time")?,
        marked_at: rows::optional_time(row, 11),
        headers: crate::bus::headers(rows::text(row, 12).unwrap_or_default()),
        body: Bytes::from(readable(row.try_get::<Vec<u8>, _>(13).ok(), "body")?),
    })
}

/// Rows for [`PUT`] and [`REWRITE`].
fn pack<'a>(letters: impl IntoIterator<Item = &'a DeadLetter>) -> (String, Vec<u8>) {
    let mut packed = Packed::default();
    for letter in letters {
        let delivery = letter.delivery;
        let fields = fields(&(
            letter.id,
            letter.source,
            &letter.topic,
            letter.message_id,
            delivery.map(|key| key.about),
            delivery.map(|key| key.subscription),
            delivery.map(|key| key.round),
            &letter.reason,
            &letter.detail,
            letter.attempts,
            letter.created_at.as_millis(),
            letter.marked_at.map(Timestamp::as_millis),
            &letter.headers,
        ));
        packed.row(&letter.body, &fields);
    }
    packed.into_parameters()
}

/// Writes the letters of deliveries that failed, in the same transaction. A row that is there already is of a redrive that
/// has not ended: it is written anew and its lease given up, so that the end of the redrive does not take it away.
pub(crate) async fn write(session: &mut Session, letters: Vec<&DeadLetter>) -> sqlx::Result<()> {
    if !letters.is_empty() {
        let (json, bytes) = pack(letters);
        sqlx::query(REWRITE).bind(json).bind(bytes).execute(&mut session.connection).await?;
    }
    Ok(())
}

/// Letters to write.
pub(crate) struct PutLetters {
    letters: Vec<DeadLetter>,
}

impl Request for PutLetters {
    type Answer = ();

    const WHAT: &'static str = "write dead letters";

    fn rows(&self) -> usize {
        self.letters.len()
    }

    fn bytes(&self) -> usize {
        self.letters.iter().map(|letter| letter.body.len()).sum()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        let (json, bytes) = pack(requests.iter().flat_map(|request| &request.letters));
        sqlx::query(PUT).bind(json).bind(bytes).execute(&mut session.connection).await?;
        Ok(vec![(); requests.len()])
    }
}

/// A selection to mark. One statement each: marking and discarding are a person's acts.
pub(crate) struct Mark {
    selection: DeadLetterSelection,
    at: Timestamp,
}

impl Request for Mark {
    type Answer = u64;

    const WHAT: &'static str = "mark dead letters";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<u64>> {
        let mut answers = Vec::with_capacity(requests.len());
        for Mark { selection, at } in requests {
            let marked =
                select(MARK, selection).bind(at.as_millis()).execute(&mut session.connection).await?;
            answers.push(marked.rows_affected());
        }
        Ok(answers)
    }
}

/// A selection to remove.
pub(crate) struct Discard {
    selection: DeadLetterSelection,
}

impl Request for Discard {
    type Answer = u64;

    const WHAT: &'static str = "discard dead letters";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<u64>> {
        let mut answers = Vec::with_capacity(requests.len());
        for Discard { selection } in requests {
            let discarded = select(DISCARD, selection).execute(&mut session.connection).await?;
            answers.push(discarded.rows_affected());
        }
        Ok(answers)
    }
}

/// A claim of marked letters.
pub(crate) struct ClaimLetters {
    source: DeadLetterSource,
    max: u32,
    token: LeaseToken,
    at: Timestamp,
    until: Timestamp,
}

impl Request for ClaimLetters {
    type Answer = Vec<ClaimedDeadLetter>;

    const WHAT: &'static str = "claim dead letters";

    fn rows(&self) -> usize {
        self.max as usize
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Self::Answer>> {
        let mut answers = Vec::with_capacity(requests.len());
        for claim in requests {
            let found = sqlx::query(CLAIM)
                .bind(claim.token.0.to_string())
                .bind(claim.until.as_millis())
                .bind(claim.source.as_str())
                .bind(claim.at.as_millis())
                .bind(i64::from(claim.max))
                .fetch_all(&mut session.connection)
                .await?;
            let mut claimed = found
                .iter()
                .map(|row| Ok(ClaimedDeadLetter { letter: letter(row)?, token: claim.token }))
                .collect::<Result<Vec<_>>>()
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            claimed.sort_by_key(|claimed| (claimed.letter.marked_at, claimed.letter.id));
            answers.push(claimed);
        }
        Ok(answers)
    }
}

/// Redrives that ended.
pub(crate) struct SettleLetters {
    settled: Vec<(DeadLetterId, LeaseToken, Option<DeadLetter>)>,
}

impl Request for SettleLetters {
    type Answer = ();

    const WHAT: &'static str = "settle dead letters";

    fn rows(&self) -> usize {
        self.settled.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        let all = || requests.iter().flat_map(|request| &request.settled);
        let keys: Vec<_> = all().map(|(id, token, _)| (id, token.0)).collect();
        let found = sqlx::query(HELD).bind(rows::to_json(&keys)).fetch_all(&mut session.connection).await?;
        let held: std::collections::BTreeSet<_> = found
            .iter()
            .filter_map(|row| Some((rows::id(row, 0, "id").ok()?, rows::id(row, 1, "token").ok()?)))
            .collect();
        let (mut done, mut again) = (Vec::new(), Vec::new());
        for (id, token, letter) in all().filter(|(id, token, _)| held.contains(&(id.0, token.0))) {
            match letter {
                None => done.push(id.0),
                // The row is the one that was held, whatever the letter calls itself.
                Some(letter) => again.push(DeadLetter { id: *id, marked_at: None, ..letter.clone() }),
            }
            let _ = token;
        }
        if !done.is_empty() {
            sqlx::query(REMOVE).bind(rows::ids(done)).execute(&mut session.connection).await?;
        }
        if !again.is_empty() {
            let (json, bytes) = pack(&again);
            sqlx::query(REWRITE).bind(json).bind(bytes).execute(&mut session.connection).await?;
        }
        Ok(vec![(); requests.len()])
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 11] =
    [LIST, COUNT, MARK, DISCARD, DEPTHS, PUT, REWRITE, CLAIM, HELD, REMOVE, MARKED];
