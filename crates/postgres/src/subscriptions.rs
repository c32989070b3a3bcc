//! `Subscriptions`: who is subscribed to what. An address is in this table and nowhere else.
//!
//! A decision is made on the row as it was read and written on the condition that nobody wrote meanwhile (`revision`); else
//! the row is read and decided on again.

mod write;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use tidings_domain::{
    Result,
    address::EmailAddress,
    filter::Filter,
    id::SubscriptionId,
    page::{Page, decode_cursor, encode_cursor},
    ports::{SubscriptionQuery, Subscriptions},
    subscription::{
        Act, Acted, Requested, Subscription, SubscriptionCounts, SubscriptionRequest, SubscriptionState,
    },
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};
use uuid::Uuid;

pub(crate) use self::write::{ActOn, Wish};
use crate::{
    fault::readable,
    group::Lane,
    rows::{self, Time, unescape},
    shared::Shared,
};

/// The columns of [`subscription`], in order, then the revision.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT s.id, s.topic, s.email, s.filter::text, s.state, s.generation, s.created_at, s.requested_at,
                s.confirmed_at, s.confirmed_by, s.unsubscribed_at, s.revision FROM ",
            $rest
        )
    };
}
use select;

const GET: &str = select!("unnest($1::uuid[]) AS wanted (id) JOIN subscriptions AS s ON s.id = wanted.id");

const LIST: &str = select!(
    "subscriptions AS s WHERE (s.created_at, s.id) < (coalesce($1::timestamptz, 'infinity'), $2)
    AND ($4::text IS NULL OR s.topic = $4) AND ($5::text IS NULL OR s.state = $5)
    ORDER BY s.created_at DESC, s.id DESC LIMIT $3"
);

const LIST_EMAIL: &str = select!(
    "subscriptions AS s WHERE s.email = $6 AND (s.created_at, s.id) < (coalesce($1::timestamptz, 'infinity'), $2)
    AND ($4::text IS NULL OR s.topic = $4) AND ($5::text IS NULL OR s.state = $5)
    ORDER BY s.created_at DESC, s.id DESC LIMIT $3"
);

const CONFIRMED: &str = select!(
    "subscriptions AS s WHERE s.topic = $1 AND s.state = 'confirmed' AND s.id > $2 ORDER BY s.id LIMIT $3"
);

const COUNTS: &str = "SELECT topic, count(*) FILTER (WHERE state = 'pending'),
        count(*) FILTER (WHERE state = 'confirmed'), count(*) FILTER (WHERE state = 'unsubscribed')
    FROM subscriptions GROUP BY topic";

/// What is under way is left to its holder, who knows how it ended: only what is pending ends here, held or not.
const REMOVE: &str = "WITH gone AS (
        DELETE FROM subscriptions WHERE id = $1 RETURNING id
    ), open AS MATERIALIZED (
        SELECT about, subscription, round FROM deliveries
        WHERE (waiting OR leased) AND state = 'pending' AND subscription = $1
        ORDER BY about, subscription, round FOR UPDATE
    ), suppressed AS (
        UPDATE deliveries AS d SET state = 'suppressed', lease_owner = NULL, lease_token = NULL, lease_until = NULL
        FROM open WHERE d.about = open.about AND d.subscription = open.subscription AND d.round = open.round
    )
    SELECT EXISTS (SELECT 1 FROM gone)";

/// The port.
pub(crate) struct PostgresSubscriptions {
    pub(crate) shared: Arc<Shared>,
    pub(crate) wishes: Arc<Lane<Wish>>,
    pub(crate) acts: Arc<Lane<ActOn>>,
}

#[async_trait]
impl Subscriptions for PostgresSubscriptions {
    async fn request(&self, request: &SubscriptionRequest, trace: &TraceContext) -> Result<Requested> {
        self.wishes.write(Wish { request: request.clone(), trace: trace.clone() }).await
    }

    async fn act(&self, id: SubscriptionId, act: Act, generation: u32, at: Timestamp) -> Result<Acted> {
        self.acts.write(ActOn { id, act, generation, at }).await
    }

    async fn get(&self, ids: &[SubscriptionId]) -> Result<Vec<Option<Subscription>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        let found = self.shared.read("read subscriptions", sqlx::query(GET).bind(wanted)).await?;
        let found: BTreeMap<_, _> =
            found.iter().filter_map(|row| self.whole(row)).map(|found| (found.id, found)).collect();
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    async fn list(&self, query: &SubscriptionQuery) -> Result<Page<Subscription>> {
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
            let statement = sqlx::query(if query.email.is_some() { LIST_EMAIL } else { LIST })
                .bind(at)
                .bind(id)
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
                .bind(query.topic.as_ref().map(|topic| topic.as_str().to_owned()))
                .bind(query.state.map(SubscriptionState::as_str));
            let statement = match &query.email {
                Some(email) => statement.bind(email.as_str().to_owned()),
                None => statement,
            };
            let rows = self.shared.read("list subscriptions", statement).await?;
            found.extend(rows.iter().filter_map(|row| self.whole(row)));
            // A row that cannot be read is passed over; the page is filled with those behind it.
            let last = rows.last().filter(|_| rows.len() >= wanted && found.len() <= limit);
            let place = last.and_then(|row| Some((rows::optional_time(row, 6)?, rows::optional_id(row, 0)?)));
            match place {
                Some(place) => (at, id) = (Some(Time(place.0)), place.1),
                None => break,
            }
        }
        Ok(Page::cut(found, query.page.limit, |subscription: &Subscription| {
            encode_cursor(subscription.created_at.as_millis(), subscription.id.0)
        }))
    }

    async fn remove(&self, id: SubscriptionId) -> Result<bool> {
        let rows = self.shared.write("remove a subscription", || sqlx::query(REMOVE).bind(id.0)).await?;
        rows::flag(readable(rows.first(), "answer")?, 0, "mark")
    }

    async fn confirmed(
        &self,
        topic: &TopicName,
        after: Option<SubscriptionId>,
        limit: u32,
    ) -> Result<Vec<Subscription>> {
        let mut after = after.map_or(Uuid::nil(), |id| id.0);
        let limit = limit as usize;
        let mut found = Vec::new();
        while found.len() < limit {
            let wanted = limit - found.len();
            let statement = sqlx::query(CONFIRMED)
                .bind(topic.as_str().to_owned())
                .bind(after)
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX));
            let rows = self.shared.read("read confirmed subscriptions", statement).await?;
            found.extend(rows.iter().filter_map(|row| self.whole(row)));
            // A row that cannot be read is passed over: a page that is not full says that nobody comes after it.
            match rows.last().filter(|_| rows.len() >= wanted).and_then(|row| rows::optional_id(row, 0)) {
                Some(last) => after = last,
                None => break,
            }
        }
        Ok(found)
    }

    async fn counts(&self) -> Result<BTreeMap<TopicName, SubscriptionCounts>> {
        let found = self.shared.read("count subscriptions", sqlx::query(COUNTS)).await?;
        found
            .iter()
            .filter_map(|row| Some((row, TopicName::parse(rows::text(row, 0)?).ok()?)))
            .map(|(row, topic)| {
                let counts = SubscriptionCounts {
                    pending: rows::count(row, 1, "count")?,
                    confirmed: rows::count(row, 2, "count")?,
                    unsubscribed: rows::count(row, 3, "count")?,
                };
                Ok((topic, counts))
            })
            .collect()
    }
}

impl PostgresSubscriptions {
    /// The row's subscription; none where a hand in the database has broken it.
    fn whole(&self, row: &PgRow) -> Option<Subscription> {
        self.shared.whole("subscription", rows::optional_id(row, 0), subscription(row))
    }
}

fn subscription(row: &PgRow) -> Result<Subscription> {
    let parsed = |column| rows::text(row, column);
    let topic = parsed(1).and_then(|name| TopicName::parse(name).ok());
    let email = parsed(2).and_then(|email| EmailAddress::parse(email).ok());
    let filter = parsed(3).and_then(|filter| Filter::from_json_text(filter).ok());
    let state = parsed(4).and_then(SubscriptionState::parse);
    Ok(Subscription {
        id: SubscriptionId(rows::id(row, 0, "subscription id")?),
        topic: readable(topic, "topic name")?,
        email: readable(email, "address")?,
        filter: readable(filter, "filter")?,
        state: readable(state, "state")?,
        generation: rows::number(row, 5, "generation")?,
        created_at: rows::time(row, 6, "time")?,
        requested_at: rows::time(row, 7, "time")?,
        confirmed_at: rows::optional_time(row, 8),
        confirmed_by: parsed(9).map(unescape),
        unsubscribed_at: rows::optional_time(row, 10),
    })
}

/// This port's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&[&str]; 2] =
    [&[GET, LIST, LIST_EMAIL, CONFIRMED, COUNTS, REMOVE], &write::STATEMENTS];
