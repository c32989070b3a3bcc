//! `Deliveries`: notifications, and the queue of mails.

mod claim;
mod plan;
mod sending;
mod settle;
mod timelines;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use sqlx::{Row as _, postgres::PgRow};
use tidings_domain::{
    Error, Result,
    delivery::{
        Answer, Claim, ClaimedDelivery, Delivery, DeliveryKey, DeliveryKind, DeliveryState, LeaseToken,
        Outcome, Sending,
    },
    id::{MessageId, SubscriptionId},
    notification::{Cursor, Notification, Plan, Planned},
    page::{Page, PageRequest, decode_cursor, encode_cursor},
    ports::Deliveries,
    status::{DeliveryCounts, Timeline},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};
use uuid::Uuid;

#[cfg(test)]
pub(crate) use self::sending::WANTED;
pub(crate) use self::{
    plan::PlanPages,
    sending::{Extend, RecordSending},
    settle::Settle,
};
use crate::{
    fault::readable,
    group::Lane,
    rows::{self, Time},
    shared::Shared,
};

/// The columns of [`delivery`], in order.
macro_rules! columns {
    () => {
        "d.about, d.subscription, d.round, d.kind, d.topic, d.state, d.due_at, d.attempts, d.unknowns, \
         d.answers::text[], d.created_at, d.sent_at, d.traceparent, d.tracestate"
    };
}
use columns;

const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries AS d WHERE d.about = $1
    AND (d.created_at, d.subscription, d.round) < (coalesce($2::timestamptz, 'infinity'), $3, $4)
    ORDER BY d.created_at DESC, d.subscription DESC, d.round DESC LIMIT $5"
);

/// What is open and what was given up, of which there are few.
const COUNTS: &str = "WITH open AS MATERIALIZED (
        SELECT state FROM deliveries WHERE waiting UNION ALL SELECT state FROM deliveries WHERE leased
    ), given_up AS MATERIALIZED (
        SELECT given_up FROM deliveries WHERE given_up IS NOT NULL
    )
    SELECT (SELECT count(*) FROM open WHERE state = 'pending'),
        (SELECT count(*) FROM open WHERE state = 'sending'),
        (SELECT count(*) FROM given_up WHERE given_up = 'suppressed'),
        (SELECT count(*) FROM given_up WHERE given_up = 'failed')";

/// The oldest that nobody holds, and what is held: as much as mailers hold.
const NEXT_DUE: &str = "SELECT least(
        (SELECT due_at FROM deliveries WHERE waiting ORDER BY due_at LIMIT 1),
        (SELECT min(CASE state WHEN 'sending' THEN lease_until ELSE greatest(lease_until, due_at) END)
            FROM deliveries WHERE leased)
    )";

const ROUNDS: &str =
    "SELECT coalesce((SELECT max(n.round) + 1 FROM notifications AS n WHERE n.item = wanted.id), 0)
    FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place) ORDER BY wanted.place";

const PING: &str = "SELECT about FROM deliveries LIMIT 1";

/// The port.
pub(crate) struct PostgresDeliveries {
    pub(crate) shared: Arc<Shared>,
    pub(crate) plans: Arc<Lane<PlanPages>>,
    pub(crate) sendings: Arc<Lane<RecordSending>>,
    pub(crate) extends: Arc<Lane<Extend>>,
    pub(crate) settles: Arc<Lane<Settle>>,
}

#[async_trait]
impl Deliveries for PostgresDeliveries {
    async fn expansions(&self, notifications: &[Notification]) -> Result<Vec<Cursor>> {
        if notifications.is_empty() {
            return Ok(Vec::new());
        }
        let statement = plan::expansions(notifications.iter());
        let found = self.shared.read("read notifications", statement).await?;
        let expansions: BTreeMap<_, _> = found.iter().map(plan::expansion).collect::<Result<_>>()?;
        let stands = |notification: &Notification| {
            let key = (notification.item.0, notification.round);
            expansions.get(&key).map_or(Cursor::Start, |expansion| expansion.stands(notification))
        };
        Ok(notifications.iter().map(stands).collect())
    }

    async fn rounds(&self, items: &[MessageId]) -> Result<Vec<u32>> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let ids: Vec<Uuid> = items.iter().map(|id| id.0).collect();
        let found = self.shared.read("read rounds", sqlx::query(ROUNDS).bind(ids)).await?;
        found.iter().map(|row| rows::number(row, 0, "round")).collect()
    }

    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Planned>> {
        match plans.is_empty() {
            true => Ok(Vec::new()),
            false => self.plans.write(PlanPages { plans }).await,
        }
    }

    async fn claim(&self, max: u32, claim: &Claim) -> Result<Vec<ClaimedDelivery>> {
        match max {
            0 => Ok(Vec::new()),
            max => claim::due(&self.shared, max, claim).await,
        }
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        let row = self.shared.read_one("read the next delivery", sqlx::query(NEXT_DUE)).await?;
        Ok(row.and_then(|row| rows::optional_time(&row, 0)))
    }

    async fn sending(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<Sending>> {
        match held.is_empty() {
            true => Ok(Vec::new()),
            false => self.sendings.write(RecordSending { held: held.to_vec(), until }).await,
        }
    }

    async fn extend(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<bool>> {
        match held.is_empty() {
            true => Ok(Vec::new()),
            false => self.extends.write(Extend { held: held.to_vec(), until }).await,
        }
    }

    async fn settle(
        &self,
        outcomes: Vec<(DeliveryKey, LeaseToken, Outcome)>,
        at: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        if outcomes.is_empty() {
            return Ok(Vec::new());
        }
        let settled = self.settles.write(Settle { outcomes, at }).await?;
        let lost = || Error::lease_lost("the delivery is settled or held by another mailer");
        Ok(settled.into_iter().map(|settled| if settled { Ok(()) } else { Err(lost()) }).collect())
    }

    async fn revive(&self, keys: &[DeliveryKey], due_at: Timestamp) -> Result<()> {
        match keys.is_empty() {
            true => Ok(()),
            false => settle::revive(&self.shared, keys, due_at).await,
        }
    }

    async fn timelines(&self, ids: &[MessageId]) -> Result<Vec<Timeline>> {
        timelines::read(&self.shared, ids).await
    }

    async fn list(&self, about: Uuid, page: &PageRequest) -> Result<Page<Delivery>> {
        let (at, subscription, round) = match &page.cursor {
            Some(cursor) => {
                let (at, subscription, round) = read_cursor(cursor)?;
                (Some(Time(at)), subscription, round)
            }
            None => (None, Uuid::max(), 0),
        };
        let statement = sqlx::query(LIST)
            .bind(about)
            .bind(at)
            .bind(subscription)
            .bind(round)
            .bind(i64::from(page.limit) + 1);
        let found = self.shared.read("list deliveries", statement).await?;
        let place = |row: &PgRow| {
            let (subscription, round) = (rows::optional_id(row, 1)?, row.try_get::<i32, _>(2).ok()?);
            Some(format!(
                "{}.{round}",
                encode_cursor(rows::optional_time(row, 10)?.as_millis(), subscription)
            ))
        };
        Ok(rows::page(&found, page.limit, |row| whole(&self.shared, row), place))
    }

    async fn counts(&self) -> Result<DeliveryCounts> {
        let row = self.shared.read_one("count deliveries", sqlx::query(COUNTS)).await?;
        let row = readable(row, "count")?;
        let count = |column| rows::count(&row, column, "count");
        Ok(DeliveryCounts {
            pending: count(0)?,
            sending: count(1)?,
            suppressed: count(2)?,
            failed: count(3)?,
            sent: 0,
        })
    }

    async fn ping(&self) -> Result<()> {
        self.shared.read("read a delivery", sqlx::query(PING)).await.map(|_| ())
    }
}

/// A cursor of (created at, subscription, round).
fn read_cursor(cursor: &str) -> Result<(Timestamp, Uuid, i32)> {
    let (cursor, round) = cursor.rsplit_once('.').unwrap_or((cursor, "no round"));
    let (millis, id) = decode_cursor(cursor)?;
    let round = round
        .parse::<i32>()
        .map_err(|_| Error::rejected("the cursor was not made by this list: begin without one"))?;
    Ok((Timestamp::from_millis(millis), id, round))
}

/// The row's delivery; none where a hand in the database has broken it.
fn whole(shared: &Shared, row: &PgRow) -> Option<Delivery> {
    shared.whole("delivery", rows::optional_id(row, 0), delivery(row))
}

/// Reads a row of [`columns`].
fn delivery(row: &PgRow) -> Result<Delivery> {
    let topic = rows::text(row, 4).and_then(|name| TopicName::parse(name).ok());
    let answers = row.try_get::<Vec<String>, _>(9).ok().and_then(|answers| {
        answers.iter().map(|answer| serde_json::from_str(answer).ok()).collect::<Option<Vec<Answer>>>()
    });
    Ok(Delivery {
        key: key(row)?,
        kind: readable(rows::text(row, 3).and_then(DeliveryKind::parse), "kind")?,
        topic: readable(topic, "topic name")?,
        state: readable(rows::text(row, 5).and_then(DeliveryState::parse), "state")?,
        due_at: rows::time(row, 6, "time")?,
        attempts: rows::number(row, 7, "count")?,
        unknowns: rows::number(row, 8, "count")?,
        answers: readable(answers, "answers")?,
        created_at: rows::time(row, 10, "time")?,
        sent_at: rows::optional_time(row, 11),
        trace: TraceContext {
            traceparent: rows::text(row, 12).map(str::to_owned),
            tracestate: rows::text(row, 13).map(str::to_owned),
        },
    })
}

/// Reads a key from the first three columns.
fn key(row: &PgRow) -> Result<DeliveryKey> {
    Ok(DeliveryKey {
        about: rows::id(row, 0, "id")?,
        subscription: SubscriptionId(rows::id(row, 1, "subscription id")?),
        round: rows::number(row, 2, "round")?,
    })
}

/// An error of a row as one of the driver, for a group.
fn undecodable(error: Error) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// This port's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&[&str]; 6] = [
    &[LIST, COUNTS, NEXT_DUE, ROUNDS, PING],
    &claim::STATEMENTS,
    &plan::STATEMENTS,
    &sending::STATEMENTS,
    &settle::STATEMENTS,
    &timelines::STATEMENTS,
];
