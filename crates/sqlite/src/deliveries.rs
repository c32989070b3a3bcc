//! `Deliveries`: notifications, and the queue of mails.

mod claim;
mod plan;
mod sending;
mod settle;
mod timelines;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use sqlx::sqlite::SqliteRow;
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

pub(crate) use self::{
    claim::ClaimDue,
    plan::{PlanPages, plan_unleased},
    sending::{Extend, RecordSending},
    settle::{Revive, Settle, suppress},
};
use crate::{fault::readable, rows, shared::Handle};

/// The columns of [`delivery`], in order.
macro_rules! columns {
    () => {
        "deliveries.about, deliveries.subscription, deliveries.round, deliveries.kind, deliveries.topic, \
         deliveries.state, deliveries.due_at, deliveries.attempts, deliveries.unknowns, deliveries.answers, \
         deliveries.created_at, deliveries.sent_at, deliveries.traceparent, deliveries.tracestate"
};
}
use columns;

const LIST: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM deliveries WHERE about = ?1 AND (created_at, subscription, round) < (?2, ?3, ?4)
    ORDER BY created_at DESC, subscription DESC, round DESC LIMIT ?5"
);

const COUNTS: &str = "SELECT
        (SELECT count(*) FROM deliveries WHERE wake_at IS NOT NULL AND state = 'pending'),
        (SELECT count(*) FROM deliveries WHERE wake_at IS NOT NULL AND state = 'sending'),
        (SELECT count(*) FROM deliveries WHERE state = 'suppressed' AND state IN ('suppressed', 'failed')),
        (SELECT count(*) FROM deliveries WHERE state = 'failed' AND state IN ('suppressed', 'failed'))";

const NEXT_DUE: &str = "SELECT min(wake_at) FROM deliveries WHERE wake_at IS NOT NULL";

const ROUNDS: &str =
    "SELECT ifnull((SELECT max(n.round) + 1 FROM notifications AS n WHERE n.item = wanted.value), 0)
    FROM json_each(?1) AS wanted ORDER BY wanted.key";

const PING: &str = "SELECT about FROM deliveries LIMIT 1";

/// The port.
pub(crate) struct SqliteDeliveries(pub(crate) Arc<Handle>);

#[async_trait]
impl Deliveries for SqliteDeliveries {
    async fn expansions(&self, notifications: &[Notification]) -> Result<Vec<Cursor>> {
        if notifications.is_empty() {
            return Ok(Vec::new());
        }
        let keys = plan::keys(notifications.iter());
        let read = sqlx::query(plan::EXPANSIONS).bind(keys).fetch_all(&self.0.readers).await;
        let found = self.0.read(read, "read notifications")?;
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
        let ids = rows::ids(items.iter().map(|id| id.0));
        let found = sqlx::query(ROUNDS).bind(ids).fetch_all(&self.0.readers).await;
        self.0.read(found, "read rounds")?.iter().map(|row| rows::number(row, 0, "round")).collect()
    }

    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Planned>> {
        match plans.is_empty() {
            true => Ok(Vec::new()),
            false => self.0.write(PlanPages { plans }).await,
        }
    }

    async fn claim(&self, max: u32, claim: &Claim) -> Result<Vec<ClaimedDelivery>> {
        match max {
            0 => Ok(Vec::new()),
            max => self.0.write(ClaimDue { max, claim: claim.clone() }).await,
        }
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        let read = sqlx::query(NEXT_DUE).fetch_one(&self.0.readers).await;
        Ok(rows::optional_time(&self.0.read(read, "read the next delivery")?, 0))
    }

    async fn sending(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<Sending>> {
        match held.is_empty() {
            true => Ok(Vec::new()),
            false => self.0.write(RecordSending { held: held.to_vec(), until }).await,
        }
    }

    async fn extend(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<bool>> {
        match held.is_empty() {
            true => Ok(Vec::new()),
            false => self.0.write(Extend { held: held.to_vec(), until }).await,
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
        let settled = self.0.write(Settle { outcomes, at }).await?;
        let lost = || Error::lease_lost("the delivery is settled or held by another mailer");
        Ok(settled.into_iter().map(|settled| if settled { Ok(()) } else { Err(lost()) }).collect())
    }

    async fn revive(&self, keys: &[DeliveryKey], due_at: Timestamp) -> Result<()> {
        match keys.is_empty() {
            true => Ok(()),
            false => self.0.write(Revive { keys: keys.to_vec(), due_at }).await,
        }
    }

    async fn timelines(&self, ids: &[MessageId]) -> Result<Vec<Timeline>> {
        timelines::read(&self.0, ids).await
    }

    async fn list(&self, about: Uuid, page: &PageRequest) -> Result<Page<Delivery>> {
        let (millis, subscription, round) = match &page.cursor {
            Some(cursor) => read_cursor(cursor)?,
            None => (i64::MAX, String::new(), 0),
        };
        let read = sqlx::query(LIST)
            .bind(about.to_string())
            .bind(millis)
            .bind(subscription)
            .bind(round)
            .bind(i64::from(page.limit) + 1)
            .fetch_all(&self.0.readers)
            .await;
        let found = self.0.read(read, "list deliveries")?.iter().map(delivery).collect::<Result<_>>()?;
        Ok(Page::cut(found, page.limit, |delivery: &Delivery| {
            let cursor = encode_cursor(delivery.created_at.as_millis(), delivery.key.subscription.0);
            format!("{cursor}.{}", delivery.key.round)
        }))
    }

    async fn counts(&self) -> Result<DeliveryCounts> {
        let read = sqlx::query(COUNTS).fetch_one(&self.0.readers).await;
        let row = self.0.read(read, "count deliveries")?;
        let count = |column| rows::number::<u64>(&row, column, "count");
        Ok(DeliveryCounts {
            pending: count(0)?,
            sending: count(1)?,
            suppressed: count(2)?,
            failed: count(3)?,
            sent: 0,
        })
    }

    async fn ping(&self) -> Result<()> {
        let read = sqlx::query(PING).fetch_optional(&self.0.readers).await;
        self.0.read(read, "read a delivery").map(|_| ())
    }
}

/// A cursor of (created at, subscription, round).
fn read_cursor(cursor: &str) -> Result<(i64, String, i64)> {
    let (cursor, round) = cursor.rsplit_once('.').unwrap_or((cursor, "no round"));
    let (millis, id) = decode_cursor(cursor)?;
    let round = round
        .parse::<u32>()
        .map_err(|_| Error::rejected("the cursor was not made by this list: begin without one"))?;
    Ok((millis, id.to_string(), i64::from(round)))
}

/// Reads a row of [`columns`].
fn delivery(row: &SqliteRow) -> Result<Delivery> {
    let topic = rows::text(row, 4).and_then(|name| TopicName::parse(name).ok());
    let answers: Option<Vec<Answer>> =
        rows::text(row, 9).and_then(|answers| serde_json::from_str(answers).ok());
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
fn key(row: &SqliteRow) -> Result<DeliveryKey> {
    Ok(DeliveryKey {
        about: rows::id(row, 0, "id")?,
        subscription: SubscriptionId(rows::id(row, 1, "subscription id")?),
        round: rows::number(row, 2, "round")?,
    })
}

/// This port's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&[&str]; 6] = [
    &[LIST, COUNTS, NEXT_DUE, PING, ROUNDS],
    &claim::STATEMENTS,
    &plan::STATEMENTS,
    &sending::STATEMENTS,
    &settle::STATEMENTS,
    &timelines::STATEMENTS,
];
