//! `DeadLetters`: what cannot go on, with its reason.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Row as _, postgres::PgRow};
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
use uuid::Uuid;

use crate::{
    fault::readable,
    group::{Lane, Request},
    pool::{Session, Statement},
    rows::{self, Time, escape, integer, to_json, unescape},
    shared::Shared,
};

/// The columns of [`letter`], in order.
macro_rules! columns {
    () => {
        "l.id, l.source, l.topic, l.message_id, l.about, l.subscription, l.round, l.reason, l.detail, l.attempts, \
         l.created_at, l.marked_at, l.headers::text, l.body"
    };
}

/// A selection as SQL: `$1` to `$5`; what is null does not restrict.
macro_rules! selected {
    () => {
        "($1::text IS NULL OR l.source = $1) AND ($2::text IS NULL OR l.topic = $2)
        AND ($3::text IS NULL OR l.reason = $3) AND ($4::uuid IS NULL OR l.message_id = $4)
        AND ($5::uuid[] IS NULL OR l.id = ANY ($5))"
    };
}

/// The same where it names a message, or letters: by their indexes.
macro_rules! selected_by_message {
    () => {
        "l.message_id = $4 AND ($1::text IS NULL OR l.source = $1) AND ($2::text IS NULL OR l.topic = $2)
        AND ($3::text IS NULL OR l.reason = $3) AND ($5::uuid[] IS NULL OR l.id = ANY ($5))"
    };
}

macro_rules! selected_by_id {
    () => {
        "l.id = ANY ($5) AND ($1::text IS NULL OR l.source = $1) AND ($2::text IS NULL OR l.topic = $2)
        AND ($3::text IS NULL OR l.reason = $3) AND ($4::uuid IS NULL OR l.message_id = $4)"
    };
}

/// A statement for each way to look.
macro_rules! statements {
    ($before:expr, $after:expr) => {
        [
            concat!($before, selected!(), $after),
            concat!($before, selected_by_message!(), $after),
            concat!($before, selected_by_id!(), $after),
        ]
    };
}

const LIST: [&str; 3] = statements!(
    concat!("SELECT ", columns!(), " FROM dead_letters AS l WHERE "),
    " AND (l.created_at, l.id) < (coalesce($6::timestamptz, 'infinity'), $7) ORDER BY l.created_at DESC, l.id DESC LIMIT $8"
);

const COUNT: [&str; 3] = statements!("SELECT count(*) FROM dead_letters AS l WHERE ", "");

const MARK: [&str; 3] = statements!(
    "WITH there AS MATERIALIZED (SELECT l.id FROM dead_letters AS l WHERE l.marked_at IS NULL AND ",
    " ORDER BY l.id FOR UPDATE), marked AS (
        UPDATE dead_letters SET marked_at = $6 FROM there WHERE dead_letters.id = there.id RETURNING 1
    ) SELECT count(*) FROM marked"
);

const DISCARD: [&str; 3] = statements!(
    "WITH there AS MATERIALIZED (SELECT l.id FROM dead_letters AS l WHERE ",
    " ORDER BY l.id FOR UPDATE), gone AS (
        DELETE FROM dead_letters USING there WHERE dead_letters.id = there.id RETURNING 1
    ) SELECT count(*) FROM gone"
);

const DEPTHS: &str = "SELECT source, reason, count(*), min(created_at) FROM dead_letters
    GROUP BY source, reason ORDER BY source COLLATE \"C\", reason COLLATE \"C\"";

/// Letters from fifteen arrays, for an INSERT: the last one says which of something else each belongs to.
macro_rules! letters {
    ($id:literal, $source:literal, $topic:literal, $message_id:literal, $about:literal, $subscription:literal,
        $round:literal, $reason:literal, $detail:literal, $attempts:literal, $created_at:literal,
        $marked_at:literal, $headers:literal, $body:literal, $place:literal) => {
        concat!(
            "(id, source, topic, message_id, about, subscription, round, reason, detail, attempts, created_at, marked_at,
                headers, body)
            SELECT letter.id, letter.source, letter.topic, letter.message_id, letter.about, letter.subscription,
                letter.round, letter.reason, letter.detail, letter.attempts, letter.created_at, letter.marked_at,
                letter.headers::json, letter.body
            FROM unnest(",
            $id, "::uuid[], ", $source, "::text[], ", $topic, "::text[], ", $message_id, "::uuid[], ",
            $about, "::uuid[], ", $subscription, "::uuid[], ", $round, "::integer[], ", $reason, "::text[], ",
            $detail, "::text[], ", $attempts, "::integer[], ", $created_at, "::timestamptz[], ",
            $marked_at, "::timestamptz[], ", $headers, "::text[], ", $body, "::bytea[], ", $place, "::bigint[]",
            ") AS letter (id, source, topic, message_id, about, subscription, round, reason, detail, attempts, created_at,
                marked_at, headers, body, place)"
        )
    };
}
pub(crate) use letters;

/// What follows `ON CONFLICT (id)` where a row is written anew.
macro_rules! rewrite {
    () => {
        "DO UPDATE SET source = excluded.source, topic = excluded.topic, message_id = excluded.message_id,
            about = excluded.about, subscription = excluded.subscription, round = excluded.round,
            reason = excluded.reason, detail = excluded.detail, attempts = excluded.attempts,
            created_at = excluded.created_at, marked_at = NULL, lease_token = NULL, lease_until = NULL,
            headers = excluded.headers, body = excluded.body"
    };
}
pub(crate) use rewrite;

const PUT: &str = concat!(
    "INSERT INTO dead_letters ",
    letters!("$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12", "$13", "$14", "$15"),
    " ORDER BY letter.id ON CONFLICT (id) DO NOTHING"
);

const MARKED: &str = "SELECT EXISTS (SELECT 1 FROM dead_letters WHERE source = $1 AND marked_at IS NOT NULL)";

const CLAIM: &str = concat!(
    "WITH marked AS MATERIALIZED (
        SELECT id FROM dead_letters WHERE source = $3 AND marked_at IS NOT NULL
            AND (lease_until IS NULL OR lease_until <= $4)
        ORDER BY marked_at LIMIT $5 FOR UPDATE SKIP LOCKED
    )
    UPDATE dead_letters AS l SET lease_token = $1, lease_until = $2 FROM marked WHERE l.id = marked.id RETURNING ",
    columns!()
);

/// Letters that are held by the given token: those without a letter are done, the others are written anew, under the id
/// that was held.
const SETTLE: &str = concat!(
    "WITH held AS MATERIALIZED (
        SELECT l.id, settled.done
        FROM unnest($16::uuid[], $17::uuid[], $18::boolean[]) AS settled (id, token, done)
        JOIN dead_letters AS l ON l.id = settled.id AND l.lease_token = settled.token
        ORDER BY l.id FOR UPDATE OF l
    ), gone AS (
        DELETE FROM dead_letters USING held WHERE dead_letters.id = held.id AND held.done
    )
    INSERT INTO dead_letters ",
    letters!("$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12", "$13", "$14", "$15"),
    " JOIN held ON held.id = letter.id AND NOT held.done ORDER BY letter.id ON CONFLICT (id) ",
    rewrite!()
);

/// The port.
pub(crate) struct PostgresDeadLetters {
    pub(crate) shared: Arc<Shared>,
    pub(crate) puts: Arc<Lane<PutLetters>>,
}

#[async_trait]
impl DeadLetters for PostgresDeadLetters {
    async fn put(&self, letters: Vec<DeadLetter>) -> Result<()> {
        match letters.is_empty() {
            true => Ok(()),
            false => self.puts.write(PutLetters { letters }).await,
        }
    }

    async fn list(&self, selection: &DeadLetterSelection, page: &PageRequest) -> Result<Page<DeadLetter>> {
        let (at, id) = match &page.cursor {
            Some(cursor) => {
                let (millis, id) = decode_cursor(cursor)?;
                (Some(Time(Timestamp::from_millis(millis))), id)
            }
            None => (None, Uuid::max()),
        };
        let statement = select(LIST, selection).bind(at).bind(id).bind(i64::from(page.limit) + 1);
        let found = self.shared.read("list dead letters", statement).await?;
        let place = |row: &PgRow| {
            Some(encode_cursor(rows::optional_time(row, 10)?.as_millis(), rows::optional_id(row, 0)?))
        };
        Ok(rows::page(&found, page.limit, |row| self.whole(row), place))
    }

    async fn mark(&self, selection: &DeadLetterSelection, at: Timestamp) -> Result<u64> {
        self.shared.write_count("mark dead letters", || select(MARK, selection).bind(Time(at))).await
    }

    async fn count(&self, selection: &DeadLetterSelection) -> Result<u64> {
        let row = self.shared.read_one("count dead letters", select(COUNT, selection)).await?;
        rows::count(&readable(row, "count")?, 0, "count")
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64> {
        self.shared.write_count("discard dead letters", || select(DISCARD, selection)).await
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
        let statement = sqlx::query(MARKED).bind(source.as_str());
        let row = self.shared.read_one("look for marked dead letters", statement).await?;
        if max == 0 || !rows::flag(&readable(row, "answer")?, 0, "mark")? {
            return Ok(Vec::new());
        }
        let statement = || {
            sqlx::query(CLAIM)
                .bind(token.0)
                .bind(Time(at.plus(lease)))
                .bind(source.as_str())
                .bind(Time(at))
                .bind(i64::from(max))
        };
        let found = self.shared.write("claim dead letters", statement).await?;
        // One that cannot be read is leased with the others and passed over: it keeps none of them back.
        let claimed = found.iter().filter_map(|row| self.whole(row));
        let mut claimed: Vec<_> = claimed.map(|letter| ClaimedDeadLetter { letter, token }).collect();
        claimed.sort_by_key(|claimed| (claimed.letter.marked_at, claimed.letter.id));
        Ok(claimed)
    }

    async fn settle(&self, settled: Vec<(DeadLetterId, LeaseToken, Option<DeadLetter>)>) -> Result<()> {
        if settled.is_empty() {
            return Ok(());
        }
        // The row is the one that was held, whatever the letter calls itself.
        let again: BTreeMap<_, _> = settled
            .iter()
            .filter_map(|(id, _, letter)| {
                Some((*id, DeadLetter { id: *id, marked_at: None, ..letter.clone()? }))
            })
            .collect();
        let statement = || {
            let letters: Vec<_> = again.values().map(|letter| (0, letter)).collect();
            bind(sqlx::query(SETTLE), &letters)
                .bind(settled.iter().map(|(id, ..)| id.0).collect::<Vec<Uuid>>())
                .bind(settled.iter().map(|(_, token, _)| token.0).collect::<Vec<Uuid>>())
                .bind(settled.iter().map(|(.., letter)| letter.is_none()).collect::<Vec<_>>())
        };
        self.shared.write("settle dead letters", statement).await.map(|_| ())
    }

    async fn depths(&self) -> Result<Vec<DeadLetterDepth>> {
        let found = self.shared.read("count dead letters", sqlx::query(DEPTHS)).await?;
        found
            .iter()
            .map(|row| {
                Ok(DeadLetterDepth {
                    source: readable(rows::text(row, 0).and_then(DeadLetterSource::parse), "source")?,
                    reason: unescape(readable(rows::text(row, 1), "reason")?),
                    count: rows::count(row, 2, "count")?,
                    oldest_at: rows::time(row, 3, "time")?,
                })
            })
            .collect()
    }
}

impl PostgresDeadLetters {
    /// The row's letter; none where a hand in the database has broken it.
    fn whole(&self, row: &PgRow) -> Option<DeadLetter> {
        self.shared.whole("dead letter", rows::optional_id(row, 0), letter(row))
    }
}

/// The statement for a selection, with it bound.
fn select(statements: [&'static str; 3], selection: &DeadLetterSelection) -> Statement {
    let [by_time, by_message, by_id] = statements;
    let statement = match (&selection.ids, &selection.message_id) {
        (Some(_), _) => by_id,
        (None, Some(_)) => by_message,
        (None, None) => by_time,
    };
    sqlx::query(statement)
        .bind(selection.source.map(DeadLetterSource::as_str))
        .bind(selection.topic.as_ref().map(|topic| topic.as_str().to_owned()))
        .bind(selection.reason.as_deref().map(escape))
        .bind(selection.message_id)
        .bind(selection.ids.as_ref().map(|ids| ids.iter().map(|id| id.0).collect::<Vec<Uuid>>()))
}

/// Reads a row of [`columns`].
fn letter(row: &PgRow) -> Result<DeadLetter> {
    let delivery = match (rows::optional_id(row, 4), rows::optional_id(row, 5)) {
        (Some(about), Some(subscription)) => Some(DeliveryKey {
            about,
            subscription: SubscriptionId(subscription),
            round: rows::number(row, 6, "round")?,
        }),
        _ => None,
    };
    let headers = rows::text(row, 12).and_then(|headers| serde_json::from_str(headers).ok());
    Ok(DeadLetter {
        id: DeadLetterId(rows::id(row, 0, "id")?),
        source: readable(rows::text(row, 1).and_then(DeadLetterSource::parse), "source")?,
        topic: rows::text(row, 2).and_then(|name| TopicName::parse(name).ok()),
        message_id: rows::optional_id(row, 3),
        delivery,
        reason: unescape(readable(rows::text(row, 7), "reason")?),
        detail: unescape(readable(rows::text(row, 8), "detail")?),
        attempts: rows::number(row, 9, "count")?,
        created_at: rows::time(row, 10, "time")?,
        marked_at: rows::optional_time(row, 11),
        headers: readable(headers, "headers")?,
        body: Bytes::from(readable(row.try_get::<Vec<u8>, _>(13).ok(), "body")?),
    })
}

/// Binds the fifteen arrays of [`letters`].
pub(crate) fn bind(statement: Statement, letters: &[(i64, &DeadLetter)]) -> Statement {
    let all = || letters.iter().map(|(_, letter)| *letter);
    let key = |of: fn(&DeliveryKey) -> Uuid| -> Vec<Option<Uuid>> {
        all().map(|letter| letter.delivery.as_ref().map(of)).collect()
    };
    statement
        .bind(all().map(|l| l.id.0).collect::<Vec<Uuid>>())
        .bind(all().map(|l| l.source.as_str().to_owned()).collect::<Vec<_>>())
        .bind(all().map(|l| l.topic.as_ref().map(|topic| topic.as_str().to_owned())).collect::<Vec<_>>())
        .bind(all().map(|l| l.message_id).collect::<Vec<_>>())
        .bind(key(|key| key.about))
        .bind(key(|key| key.subscription.0))
        .bind(all().map(|l| l.delivery.map(|key| integer(key.round))).collect::<Vec<_>>())
        .bind(all().map(|l| escape(&l.reason)).collect::<Vec<_>>())
        .bind(all().map(|l| escape(&l.detail)).collect::<Vec<_>>())
        .bind(all().map(|l| integer(l.attempts)).collect::<Vec<_>>())
        .bind(all().map(|l| Time(l.created_at)).collect::<Vec<_>>())
        .bind(all().map(|l| l.marked_at.map(Time)).collect::<Vec<_>>())
        .bind(all().map(|l| to_json(&l.headers)).collect::<Vec<_>>())
        .bind(all().map(|l| l.body.to_vec()).collect::<Vec<_>>())
        .bind(letters.iter().map(|(place, _)| *place).collect::<Vec<_>>())
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
        let letters: Vec<_> =
            requests.iter().flat_map(|request| &request.letters).map(|letter| (0, letter)).collect();
        session.execute(bind(sqlx::query(PUT), &letters)).await?;
        Ok(vec![(); requests.len()])
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&[&str]; 5] =
    [&LIST, &COUNT, &MARK, &DISCARD, &[DEPTHS, PUT, MARKED, CLAIM, SETTLE]];
