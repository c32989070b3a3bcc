//! Planning: a notification's page of deliveries, its cursor and its count, all or none.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::sqlite::SqliteRow;
use tidings_domain::{
    Result,
    delivery::{Claim, DeliveryKey, NewDelivery},
    id::SubscriptionId,
    notification::{Cursor, Notification, Plan, Planned},
};
use uuid::Uuid;

use crate::{
    fault::readable,
    group::{Request, Session},
    rows::{self, to_json},
};

pub(super) const EXPANSIONS: &str = "SELECT n.item, n.round, n.replay, n.cursor, n.finished
    FROM json_each(?1) AS wanted
    CROSS JOIN notifications AS n ON n.item = wanted.value ->> 0 AND n.round = wanted.value ->> 1";

const THERE: &str = "SELECT d.about, d.subscription, d.round FROM json_each(?1) AS wanted
    CROSS JOIN deliveries AS d
    ON d.about = wanted.value ->> 0 AND d.subscription = wanted.value ->> 1 AND d.round = wanted.value ->> 2";

const WRITE: &str = "INSERT INTO notifications
        (item, round, topic, replay, captured_at, published_at, cursor, finished, planned)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
        value ->> 8
    FROM json_each(?1) WHERE true
    ON CONFLICT (item, round) DO UPDATE SET replay = excluded.replay, cursor = excluded.cursor,
        finished = excluded.finished, planned = planned + excluded.planned";

const INSERT: &str = "INSERT INTO deliveries (about, subscription, round, kind, topic, state, due_at, wake_at, lease_owner,
        lease_token, attempts, unknowns, counted, answers, created_at, traceparent, tracestate)
    SELECT value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, 'pending', value ->> 5, value ->> 6,
        value ->> 7, value ->> 8, 0, 0, 0, '[]', value ->> 9, value ->> 10, value ->> 11
    FROM json_each(?1) WHERE true
    ON CONFLICT (about, subscription, round) DO NOTHING";

/// How far a notification's expansion has come.
#[derive(Clone, Debug)]
pub(super) struct Expansion {
    replay: Option<String>,
    cursor: Cursor,
}

impl Expansion {
    /// Where it stands for `notification`: at the start again for a new replay.
    pub(super) fn stands(&self, notification: &Notification) -> Cursor {
        match &notification.replay {
            Some(replay) if self.replay.as_ref() != Some(replay) => Cursor::Start,
            _ => self.cursor,
        }
    }
}

/// The keys of notifications for [`EXPANSIONS`].
pub(super) fn keys<'a>(notifications: impl Iterator<Item = &'a Notification>) -> String {
    let keys: BTreeSet<_> =
        notifications.map(|notification| (notification.item, notification.round)).collect();
    to_json(&keys)
}

/// Reads a row of [`EXPANSIONS`].
pub(super) fn expansion(row: &SqliteRow) -> Result<((Uuid, u32), Expansion)> {
    let key = (rows::id(row, 0, "id")?, rows::number(row, 1, "round")?);
    let cursor = match (rows::number::<u8>(row, 4, "mark")?, rows::text(row, 3)) {
        (0, None) => Cursor::Start,
        (0, Some(id)) => Cursor::After(readable(SubscriptionId::parse(id), "subscription id")?),
        _ => Cursor::Finished,
    };
    Ok((key, Expansion { replay: rows::text(row, 2).map(str::to_owned), cursor }))
}

/// Pages to plan.
pub(crate) struct PlanPages {
    pub(super) plans: Vec<Plan>,
}

impl Request for PlanPages {
    type Answer = Vec<Planned>;

    const WHAT: &'static str = "plan deliveries";

    fn rows(&self) -> usize {
        self.plans.iter().map(|plan| 1 + plan.page.len()).sum()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Vec<Planned>>> {
        let all = || requests.iter().flat_map(|request| &request.plans);
        let found = sqlx::query(EXPANSIONS)
            .bind(keys(all().map(|plan| &plan.notification)))
            .fetch_all(&mut session.connection)
            .await?;
        let mut expansions: BTreeMap<_, _> = found
            .iter()
            .map(expansion)
            .collect::<Result<_>>()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let keys: Vec<_> = all().flat_map(|plan| &plan.page).map(|new| new.key).collect();
        let mut there = BTreeSet::new();
        if !keys.is_empty() {
            let found = sqlx::query(THERE)
                .bind(to_json(&keys.iter().map(columns).collect::<Vec<_>>()))
                .fetch_all(&mut session.connection)
                .await?;
            there.extend(found.iter().filter_map(|row| super::key(row).ok()));
        }
        let mut written: BTreeMap<(Uuid, u32), Written<'_>> = BTreeMap::new();
        let mut rows = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let mut planned = Vec::with_capacity(request.plans.len());
            for plan in &request.plans {
                let notification = &plan.notification;
                let key = (notification.item.0, notification.round);
                let before = expansions.get(&key);
                let stands = before.map_or(Cursor::Start, |expansion| expansion.stands(notification));
                if stands != plan.from {
                    let written_before = stands == plan.to;
                    planned.push(if written_before {
                        Planned::Written(Vec::new())
                    } else {
                        Planned::Moved(stands)
                    });
                    continue;
                }
                let replay = notification
                    .replay
                    .clone()
                    .or_else(|| before.and_then(|expansion| expansion.replay.clone()));
                let mut made = Vec::new();
                for new in &plan.page {
                    if there.insert(new.key) {
                        made.push(new.key);
                        rows.push(row(new, plan.claim.as_ref()));
                    }
                }
                let entry = written.entry(key).or_insert(Written { notification, planned: 0 });
                entry.planned += made.len();
                expansions.insert(key, Expansion { replay, cursor: plan.to });
                planned.push(Planned::Written(made));
            }
            answers.push(planned);
        }
        let notifications: Vec<_> = written
            .iter()
            .filter_map(|(key, Written { notification, planned })| {
                let Expansion { replay, cursor } = expansions.get(key)?;
                let after = match cursor {
                    Cursor::After(id) => Some(*id),
                    Cursor::Start | Cursor::Finished => None,
                };
                Some((
                    notification.item,
                    notification.round,
                    &notification.topic,
                    replay,
                    notification.captured_at.as_millis(),
                    notification.published_at.as_millis(),
                    after,
                    u8::from(*cursor == Cursor::Finished),
                    planned,
                ))
            })
            .collect();
        if !notifications.is_empty() {
            sqlx::query(WRITE).bind(to_json(&notifications)).execute(&mut session.connection).await?;
        }
        insert(session, rows).await?;
        Ok(answers)
    }
}

/// A notification whose row is to be written, with the deliveries that its pages made.
struct Written<'a> {
    notification: &'a Notification,
    planned: usize,
}

/// The key of a delivery as the statements have it.
pub(super) fn columns(key: &DeliveryKey) -> (Uuid, SubscriptionId, u32) {
    (key.about, key.subscription, key.round)
}

/// A new row in the order of [`INSERT`], with its key to sort by.
fn row(new: &NewDelivery, claim: Option<&Claim>) -> (DeliveryKey, String) {
    let fields = rows::fields(&(
        new.key.about,
        new.key.subscription,
        new.key.round,
        new.kind.as_str(),
        &new.topic,
        new.due_at.as_millis(),
        claim.map_or(new.due_at, |claim| claim.until).as_millis(),
        claim.map(|claim| &claim.owner),
        claim.map(|claim| claim.token.0),
        new.created_at.as_millis(),
        &new.trace.traceparent,
        &new.trace.tracestate,
    ));
    (new.key, fields)
}

/// Writes new rows, sorted by their keys.
async fn insert(session: &mut Session, mut rows: Vec<(DeliveryKey, String)>) -> sqlx::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    rows.sort_unstable();
    let mut json = String::from("[");
    for (index, (_, row)) in rows.iter().enumerate() {
        json.push_str(if index == 0 { "[" } else { ",[" });
        json.push_str(row);
        json.push(']');
    }
    json.push(']');
    sqlx::query(INSERT).bind(json).execute(&mut session.connection).await?;
    Ok(())
}

/// Writes deliveries that no notification plans: confirmations, in the transaction of their cause.
pub(crate) async fn plan_unleased(session: &mut Session, new: &[NewDelivery]) -> sqlx::Result<()> {
    insert(session, new.iter().map(|new| row(new, None)).collect()).await
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 4] = [EXPANSIONS, THERE, WRITE, INSERT];
