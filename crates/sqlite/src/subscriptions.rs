//! `Subscriptions`: who is subscribed to what. An address is in this table and nowhere else.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use sqlx::{Row as _, sqlite::SqliteRow};
use tidings_domain::{
    Result,
    address::EmailAddress,
    filter::Filter,
    id::SubscriptionId,
    page::{Page, decode_cursor, encode_cursor},
    ports::{SubscriptionQuery, Subscriptions},
    subscription::{
        Act, Acted, Requested, Subscription, SubscriptionCounts, SubscriptionRequest, SubscriptionState,
        confirmation, decide_act, decide_request,
    },
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};
use uuid::Uuid;

use crate::{
    deliveries,
    fault::readable,
    group::{Request, Session},
    rows::{self, to_json},
    shared::Handle,
};

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT s.id, s.topic, s.email, s.filter, s.state, s.generation, s.created_at, s.requested_at,
                s.confirmed_at, s.confirmed_by, s.unsubscribed_at FROM ",
            $rest
        )
    };
}

const GET: &str = select!("json_each(?1) AS wanted CROSS JOIN subscriptions AS s ON s.id = wanted.value");

const OF_ADDRESSES: &str = select!(
    "json_each(?1) AS wanted CROSS JOIN subscriptions AS s
    ON s.topic = wanted.value ->> 0 AND s.email = wanted.value ->> 1"
);

const LIST: &str = select!(
    "subscriptions AS s WHERE (s.created_at, s.id) < (?1, ?2) AND (?4 IS NULL OR s.topic = ?4)
    AND (?5 IS NULL OR s.state = ?5) ORDER BY s.created_at DESC, s.id DESC LIMIT ?3"
);

const LIST_EMAIL: &str = select!(
    "subscriptions AS s WHERE s.email = ?6 AND (s.created_at, s.id) < (?1, ?2)
    AND (?4 IS NULL OR s.topic = ?4) AND (?5 IS NULL OR s.state = ?5)
    ORDER BY s.created_at DESC, s.id DESC LIMIT ?3"
);

const CONFIRMED: &str = select!(
    "subscriptions AS s WHERE s.topic = ?1 AND s.state = 'confirmed' AND s.id > ?2 ORDER BY s.id LIMIT ?3"
);

const COUNTS: &str = "SELECT topic, count(*) FILTER (WHERE state = 'pending'),
        count(*) FILTER (WHERE state = 'confirmed'), count(*) FILTER (WHERE state = 'unsubscribed')
    FROM subscriptions GROUP BY topic";

const WRITE: &str = "INSERT INTO subscriptions (id, topic, email, filter, state, generation, created_at, requested_at,
        confirmed_at, confirmed_by, unsubscribed_at)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8, value ->> 9, value ->> 10
    FROM json_each(?1) WHERE true
    ON CONFLICT (id) DO UPDATE SET filter = excluded.filter, state = excluded.state,
        generation = excluded.generation, requested_at = excluded.requested_at,
        confirmed_at = excluded.confirmed_at, confirmed_by = excluded.confirmed_by,
        unsubscribed_at = excluded.unsubscribed_at";

const REMOVE: &str = "DELETE FROM subscriptions WHERE id IN (SELECT value FROM json_each(?1))";

/// The port.
pub(crate) struct SqliteSubscriptions(pub(crate) Arc<Handle>);

#[async_trait]
impl Subscriptions for SqliteSubscriptions {
    async fn request(&self, request: &SubscriptionRequest, trace: &TraceContext) -> Result<Requested> {
        self.0.write(Wish { request: request.clone(), trace: trace.clone() }).await
    }

    async fn act(&self, id: SubscriptionId, act: Act, generation: u32, at: Timestamp) -> Result<Acted> {
        self.0.write(ActOn { id, act, generation, at }).await
    }

    async fn get(&self, ids: &[SubscriptionId]) -> Result<Vec<Option<Subscription>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let read =
            sqlx::query(GET).bind(rows::ids(ids.iter().map(|id| id.0))).fetch_all(&self.0.readers).await;
        let found: BTreeMap<_, _> = self
            .0
            .read(read, "read subscriptions")?
            .iter()
            .filter_map(|row| self.whole(row))
            .map(|subscription| (subscription.id, subscription))
            .collect();
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    async fn list(&self, query: &SubscriptionQuery) -> Result<Page<Subscription>> {
        let (mut millis, mut id) = match &query.page.cursor {
            Some(cursor) => decode_cursor(cursor).map(|(millis, id)| (millis, id.to_string()))?,
            None => (i64::MAX, String::new()),
        };
        let limit = query.page.limit as usize;
        let mut found = Vec::new();
        loop {
            let wanted = limit.saturating_add(1) - found.len();
            let read = sqlx::query(if query.email.is_some() { LIST_EMAIL } else { LIST })
                .bind(millis)
                .bind(id)
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
                .bind(query.topic.as_ref().map(|topic| topic.as_str().to_owned()))
                .bind(query.state.map(SubscriptionState::as_str))
                .bind(query.email.as_ref().map(|email| email.as_str().to_owned()))
                .fetch_all(&self.0.readers)
                .await;
            let rows = self.0.read(read, "list subscriptions")?;
            found.extend(rows.iter().filter_map(|row| self.whole(row)));
            // A row that cannot be read is passed over; the page is filled with those behind it.
            let last = rows.last().filter(|_| rows.len() >= wanted && found.len() <= limit);
            let place = last.and_then(|row| Some((row.try_get(6).ok()?, rows::text(row, 0)?.to_owned())));
            match place {
                Some(place) => (millis, id) = place,
                None => break,
            }
        }
        Ok(Page::cut(found, query.page.limit, |subscription: &Subscription| {
            encode_cursor(subscription.created_at.as_millis(), subscription.id.0)
        }))
    }

    async fn remove(&self, id: SubscriptionId) -> Result<bool> {
        self.0.write(Remove { id }).await
    }

    async fn confirmed(
        &self,
        topic: &TopicName,
        after: Option<SubscriptionId>,
        limit: u32,
    ) -> Result<Vec<Subscription>> {
        let mut after = after.map(|id| id.to_string()).unwrap_or_default();
        let limit = limit as usize;
        let mut found = Vec::new();
        while found.len() < limit {
            let wanted = limit - found.len();
            let read = sqlx::query(CONFIRMED)
                .bind(topic.as_str().to_owned())
                .bind(after)
                .bind(i64::try_from(wanted).unwrap_or(i64::MAX))
                .fetch_all(&self.0.readers)
                .await;
            let rows = self.0.read(read, "read confirmed subscriptions")?;
            found.extend(rows.iter().filter_map(|row| self.whole(row)));
            // A row that cannot be read is passed over: a page that is not full says that nobody comes after it.
            match rows.last().filter(|_| rows.len() >= wanted).and_then(|row| rows::text(row, 0)) {
                Some(last) => after = last.to_owned(),
                None => break,
            }
        }
        Ok(found)
    }

    async fn counts(&self) -> Result<BTreeMap<TopicName, SubscriptionCounts>> {
        let read = sqlx::query(COUNTS).fetch_all(&self.0.readers).await;
        self.0
            .read(read, "count subscriptions")?
            .iter()
            .filter_map(|row| Some((row, TopicName::parse(rows::text(row, 0)?).ok()?)))
            .map(|(row, topic)| {
                let counts = SubscriptionCounts {
                    pending: rows::number(row, 1, "count")?,
                    confirmed: rows::number(row, 2, "count")?,
                    unsubscribed: rows::number(row, 3, "count")?,
                };
                Ok((topic, counts))
            })
            .collect()
    }
}

impl SqliteSubscriptions {
    /// The row's subscription; none where a hand in the file has broken it, which is told once.
    fn whole(&self, row: &SqliteRow) -> Option<Subscription> {
        match subscription(row) {
            Ok(subscription) => Some(subscription),
            Err(error) => {
                let id = rows::text(row, 0).and_then(|id| Uuid::try_parse(id).ok()).unwrap_or_default();
                if self.0.shared.is_news(id) {
                    tracing::warn!(subscription = %id, error = error.chain(), "a subscription's row cannot be read");
                }
                None
            }
        }
    }
}

fn subscription(row: &SqliteRow) -> Result<Subscription> {
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
        confirmed_by: parsed(9).map(str::to_owned),
        unsubscribed_at: rows::optional_time(row, 10),
    })
}

/// Rows that a decision is made on; a broken one is a fault of the whole read.
fn decided_on(found: &[SqliteRow]) -> sqlx::Result<Vec<Subscription>> {
    found.iter().map(|row| subscription(row).map_err(|error| sqlx::Error::Decode(Box::new(error)))).collect()
}

async fn write<'a>(
    session: &mut Session,
    changed: impl Iterator<Item = &'a Subscription>,
) -> sqlx::Result<()> {
    let millis = |time: Option<Timestamp>| time.map(Timestamp::as_millis);
    let changed: Vec<_> = changed
        .map(|s| {
            (
                s.id,
                &s.topic,
                &s.email,
                to_json(&s.filter),
                s.state.as_str(),
                s.generation,
                s.created_at.as_millis(),
                s.requested_at.as_millis(),
                millis(s.confirmed_at),
                &s.confirmed_by,
                millis(s.unsubscribed_at),
            )
        })
        .collect();
    if !changed.is_empty() {
        sqlx::query(WRITE).bind(to_json(&changed)).execute(&mut session.connection).await?;
    }
    Ok(())
}

/// Someone wishes to be mailed.
pub(crate) struct Wish {
    request: SubscriptionRequest,
    trace: TraceContext,
}

impl Request for Wish {
    type Answer = Requested;

    const WHAT: &'static str = "ask for a subscription";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Requested>> {
        let key = |topic: &TopicName, email: &EmailAddress| (topic.clone(), email.clone());
        let wanted: Vec<_> = requests.iter().map(|wish| (&wish.request.topic, &wish.request.email)).collect();
        let found =
            sqlx::query(OF_ADDRESSES).bind(to_json(&wanted)).fetch_all(&mut session.connection).await?;
        let mut there: BTreeMap<_, _> =
            decided_on(&found)?.into_iter().map(|s| (key(&s.topic, &s.email), s)).collect();
        let mut changed = BTreeMap::new();
        let mut mails = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for Wish { request, trace } in requests {
            let key = key(&request.topic, &request.email);
            let requested = decide_request(there.get(&key), request);
            if requested.changed {
                there.insert(key.clone(), requested.subscription.clone());
                changed.insert(key, requested.subscription.clone());
            }
            if requested.mail {
                mails.push(confirmation(&requested.subscription, request.at, trace));
            }
            answers.push(requested);
        }
        write(session, changed.values()).await?;
        deliveries::plan_unleased(session, &mails).await?;
        Ok(answers)
    }
}

/// A link was followed.
pub(crate) struct ActOn {
    id: SubscriptionId,
    act: Act,
    generation: u32,
    at: Timestamp,
}

impl Request for ActOn {
    type Answer = Acted;

    const WHAT: &'static str = "change a subscription";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Acted>> {
        let ids = rows::ids(requests.iter().map(|act| act.id.0));
        let found = sqlx::query(GET).bind(ids).fetch_all(&mut session.connection).await?;
        let mut there: BTreeMap<_, _> = decided_on(&found)?.into_iter().map(|s| (s.id, s)).collect();
        let mut changed = BTreeMap::new();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let acted = decide_act(there.get(&request.id), request.act, request.generation, request.at);
            if let Acted::Done(subscription) = &acted {
                there.insert(request.id, subscription.clone());
                changed.insert(request.id, subscription.clone());
            }
            answers.push(acted);
        }
        write(session, changed.values()).await?;
        Ok(answers)
    }
}

/// A subscription to remove.
pub(crate) struct Remove {
    id: SubscriptionId,
}

impl Request for Remove {
    /// Whether there was one.
    type Answer = bool;

    const WHAT: &'static str = "remove a subscription";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<bool>> {
        let ids = rows::ids(requests.iter().map(|remove| remove.id.0));
        let found = sqlx::query(GET).bind(ids.clone()).fetch_all(&mut session.connection).await?;
        // Read by id alone: a row that is broken otherwise can be removed.
        let mut there: Vec<_> = found.iter().filter_map(|row| rows::id(row, 0, "id").ok()).collect();
        let answers = requests
            .iter()
            .map(|remove| match there.iter().position(|id| *id == remove.id.0) {
                Some(at) => {
                    there.swap_remove(at);
                    true
                }
                None => false,
            })
            .collect();
        sqlx::query(REMOVE).bind(ids.clone()).execute(&mut session.connection).await?;
        deliveries::suppress(session, ids).await?;
        Ok(answers)
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 8] =
    [GET, OF_ADDRESSES, LIST, LIST_EMAIL, CONFIRMED, COUNTS, WRITE, REMOVE];
