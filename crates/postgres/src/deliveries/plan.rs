//! Planning: a notification's page of deliveries, its cursor and its count, all or none.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::postgres::PgRow;
use tidings_domain::{
    Result,
    delivery::{DeliveryKey, NewDelivery},
    id::SubscriptionId,
    notification::{Cursor, Notification, Plan, Planned},
};
use uuid::Uuid;

use super::undecodable;
use crate::{
    group::Request,
    pool::{Session, Statement},
    rows::{self, Time, escape, integer, unescape},
};

const EXPANSIONS: &str = "SELECT n.item, n.round, n.replay, n.cursor, n.finished
    FROM unnest($1::uuid[], $2::integer[]) AS wanted (item, round)
    JOIN notifications AS n ON n.item = wanted.item AND n.round = wanted.round";

/// Pages of different notifications, each written where its notification stands at the cursor that the page was made from:
/// a new replay begins anew. Answers the notifications whose pages were written (without a subscription) and the rows that
/// were made.
const PLAN: &str = "WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
            $7::uuid[], $8::boolean[], $9::uuid[], $10::boolean[], $11::bigint[])
            AS wanted (item, round, topic, replay, captured_at, published_at, from_cursor, from_finished, cursor,
                finished, planned)
    ), page AS MATERIALIZED (
        SELECT * FROM unnest($12::uuid[], $13::integer[], $14::uuid[], $15::uuid[], $16::integer[], $17::text[],
            $18::text[], $19::timestamptz[], $20::timestamptz[], $21::text[], $22::text[], $23::text[], $24::uuid[],
            $25::timestamptz[])
            AS page (item, notified, about, subscription, round, kind, topic, due_at, created_at, traceparent,
                tracestate, lease_owner, lease_token, lease_until)
    ), there AS MATERIALIZED (
        SELECT n.item, n.round, n.replay, n.cursor, n.finished
        FROM wanted JOIN notifications AS n ON n.item = wanted.item AND n.round = wanted.round
        ORDER BY n.item, n.round FOR UPDATE OF n
    ), made AS (
        INSERT INTO notifications (item, round, topic, replay, captured_at, published_at, cursor, finished, planned)
        SELECT item, round, topic, replay, captured_at, published_at, cursor, finished, planned FROM wanted
        WHERE from_cursor IS NULL AND NOT from_finished
            AND NOT EXISTS (SELECT 1 FROM there WHERE there.item = wanted.item AND there.round = wanted.round)
        ORDER BY item, round
        ON CONFLICT (item, round) DO NOTHING RETURNING item, round
    ), moved AS (
        UPDATE notifications AS n SET replay = coalesce(wanted.replay, n.replay), cursor = wanted.cursor,
            finished = wanted.finished,
            planned = n.planned + wanted.planned - (
                SELECT count(*) FROM page JOIN deliveries AS d
                    ON d.about = page.about AND d.subscription = page.subscription AND d.round = page.round
                WHERE page.item = wanted.item AND page.notified = wanted.round
            )
        FROM wanted JOIN there ON there.item = wanted.item AND there.round = wanted.round
        WHERE n.item = wanted.item AND n.round = wanted.round
            AND CASE
                WHEN wanted.replay IS DISTINCT FROM there.replay AND wanted.replay IS NOT NULL
                    THEN wanted.from_cursor IS NULL AND NOT wanted.from_finished
                ELSE (wanted.from_cursor, wanted.from_finished) IS NOT DISTINCT FROM (there.cursor, there.finished)
            END
        RETURNING n.item, n.round
    ), written AS MATERIALIZED (
        SELECT item, round FROM made UNION ALL SELECT item, round FROM moved
    ), planned AS (
        INSERT INTO deliveries (about, subscription, round, kind, topic, state, due_at, created_at, traceparent,
            tracestate, lease_owner, lease_token, lease_until)
        SELECT page.about, page.subscription, page.round, page.kind, page.topic, 'pending', page.due_at,
            page.created_at, page.traceparent, page.tracestate, page.lease_owner, page.lease_token,
            page.lease_until
        FROM page JOIN written ON written.item = page.item AND written.round = page.notified
        ORDER BY page.about, page.subscription, page.round
        ON CONFLICT (about, subscription, round) DO NOTHING RETURNING about, subscription, round
    )
    SELECT item, NULL::uuid, round FROM written UNION ALL SELECT about, subscription, round FROM planned";

/// What a token holds of that which was planned before with it, and whose answer was lost: it is untried.
const HELD: &str = "SELECT d.about, d.subscription, d.round
    FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::uuid[]) AS wanted (about, subscription, round, token)
    JOIN deliveries AS d ON d.about = wanted.about AND d.subscription = wanted.subscription
        AND d.round = wanted.round AND d.lease_token = wanted.token AND d.leased AND d.state = 'pending'";

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

/// The statement that reads how far `notifications` have come.
pub(super) fn expansions<'a>(notifications: impl Iterator<Item = &'a Notification>) -> Statement {
    let keys: BTreeSet<_> =
        notifications.map(|notification| (notification.item.0, notification.round)).collect();
    sqlx::query(EXPANSIONS)
        .bind(keys.iter().map(|(item, _)| *item).collect::<Vec<Uuid>>())
        .bind(keys.iter().map(|(_, round)| integer(*round)).collect::<Vec<_>>())
}

/// Reads a row of [`EXPANSIONS`].
pub(super) fn expansion(row: &PgRow) -> Result<((Uuid, u32), Expansion)> {
    let key = (rows::id(row, 0, "id")?, rows::number(row, 1, "round")?);
    let cursor = match (rows::flag(row, 4, "mark")?, rows::optional_id(row, 3)) {
        (false, None) => Cursor::Start,
        (false, Some(id)) => Cursor::After(SubscriptionId(id)),
        (true, _) => Cursor::Finished,
    };
    Ok((key, Expansion { replay: rows::text(row, 2).map(unescape), cursor }))
}

/// A cursor as its two columns.
fn columns(cursor: Cursor) -> (Option<Uuid>, bool) {
    match cursor {
        Cursor::Start => (None, false),
        Cursor::After(id) => (Some(id.0), false),
        Cursor::Finished => (None, true),
    }
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
        let plans: Vec<&Plan> = requests.iter().flat_map(|request| &request.plans).collect();
        let mut answers: Vec<Option<Planned>> = plans.iter().map(|_| None).collect();
        let mut waiting: Vec<usize> = (0..plans.len()).collect();
        let mut told = BTreeSet::new();
        // Of several pages of one notification each follows the one before: one statement each.
        while !waiting.is_empty() {
            let mut wave = BTreeMap::new();
            waiting.retain(|index| {
                let notification = &plans[*index].notification;
                let key = (notification.item.0, notification.round);
                let first = !wave.contains_key(&key);
                if first {
                    wave.insert(key, *index);
                }
                !first
            });
            let wave: Vec<usize> = wave.into_values().collect();
            let those: Vec<&Plan> = wave.iter().map(|index| plans[*index]).collect();
            for (index, planned) in wave.into_iter().zip(plan(session, &those, &told).await?) {
                if let Planned::Written(keys) = &planned {
                    told.extend(keys.iter().copied());
                }
                answers[index] = Some(planned);
            }
        }
        let mut answers = answers.into_iter().flatten();
        Ok(requests.iter().map(|request| answers.by_ref().take(request.plans.len()).collect()).collect())
    }
}

/// Plans pages of different notifications, sorted by these. What was `told` already is told once.
async fn plan(
    session: &mut Session,
    plans: &[&Plan],
    told: &BTreeSet<DeliveryKey>,
) -> sqlx::Result<Vec<Planned>> {
    let found = session.rows(statement(plans)).await?;
    let mut written = BTreeSet::new();
    let mut made = BTreeSet::new();
    for row in &found {
        match rows::optional_id(row, 1) {
            Some(_) => {
                made.insert(super::key(row).map_err(undecodable)?);
            }
            None => {
                let key = (rows::id(row, 0, "id"), rows::number(row, 2, "round"));
                written.insert((key.0.map_err(undecodable)?, key.1.map_err(undecodable)?));
            }
        }
    }
    let key = |plan: &Plan| (plan.notification.item.0, plan.notification.round);
    let elsewhere: Vec<_> = plans.iter().filter(|plan| !written.contains(&key(plan))).collect();
    let stand: BTreeMap<_, _> = match elsewhere.is_empty() {
        true => BTreeMap::new(),
        false => {
            let statement = expansions(elsewhere.iter().map(|plan| &plan.notification));
            let found = session.rows(statement).await?;
            found.iter().map(expansion).collect::<Result<_>>().map_err(undecodable)?
        }
    };
    let stands = |plan: &Plan| match written.contains(&key(plan)) {
        true => plan.to,
        false => stand.get(&key(plan)).map_or(Cursor::Start, |found| found.stands(&plan.notification)),
    };
    // Written before: leased rows that nobody knows of would wait out their lease.
    let before = elsewhere.into_iter().filter(|plan| stands(plan) == plan.to);
    made.extend(held(session, before.copied()).await?.difference(told));
    let answer = |plan: &&Plan| match stands(plan) {
        stands if stands == plan.to => {
            let keys = plan.page.iter().map(|new| new.key);
            Planned::Written(keys.filter(|key| made.contains(key)).collect())
        }
        stands => Planned::Moved(stands),
    };
    Ok(plans.iter().map(answer).collect())
}

/// What the claims of `plans` hold of their pages, untried.
async fn held<'a>(
    session: &mut Session,
    plans: impl Iterator<Item = &'a Plan>,
) -> sqlx::Result<BTreeSet<DeliveryKey>> {
    let claiming = plans.filter_map(|plan| Some((plan, plan.claim.as_ref()?.token.0)));
    let wanted: Vec<(DeliveryKey, Uuid)> =
        claiming.flat_map(|(plan, token)| plan.page.iter().map(move |new| (new.key, token))).collect();
    if wanted.is_empty() {
        return Ok(BTreeSet::new());
    }
    let keys = || wanted.iter().map(|(key, _)| key);
    let statement = sqlx::query(HELD)
        .bind(keys().map(|key| key.about).collect::<Vec<Uuid>>())
        .bind(keys().map(|key| key.subscription.0).collect::<Vec<Uuid>>())
        .bind(keys().map(|key| integer(key.round)).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, token)| *token).collect::<Vec<Uuid>>());
    let found = session.rows(statement).await?;
    found.iter().map(super::key).collect::<Result<_>>().map_err(undecodable)
}

fn statement(plans: &[&Plan]) -> Statement {
    let notifications = || plans.iter().map(|plan| &plan.notification);
    let from = || plans.iter().map(|plan| columns(plan.from));
    let to = || plans.iter().map(|plan| columns(plan.to));
    let mut page: Vec<(&Plan, &NewDelivery)> =
        plans.iter().flat_map(|plan| plan.page.iter().map(|new| (*plan, new))).collect();
    page.sort_by_key(|(_, new)| new.key);
    page.dedup_by_key(|(_, new)| new.key);
    let keys = || page.iter().map(|(_, new)| &new.key);
    let new = || page.iter().map(|(_, new)| *new);
    let claims = || page.iter().map(|(plan, _)| plan.claim.as_ref());
    sqlx::query(PLAN)
        .bind(notifications().map(|n| n.item.0).collect::<Vec<Uuid>>())
        .bind(notifications().map(|n| integer(n.round)).collect::<Vec<_>>())
        .bind(notifications().map(|n| n.topic.as_str().to_owned()).collect::<Vec<_>>())
        .bind(notifications().map(|n| n.replay.as_deref().map(escape)).collect::<Vec<_>>())
        .bind(notifications().map(|n| Time(n.captured_at)).collect::<Vec<_>>())
        .bind(notifications().map(|n| Time(n.published_at)).collect::<Vec<_>>())
        .bind(from().map(|from| from.0).collect::<Vec<_>>())
        .bind(from().map(|from| from.1).collect::<Vec<_>>())
        .bind(to().map(|to| to.0).collect::<Vec<_>>())
        .bind(to().map(|to| to.1).collect::<Vec<_>>())
        .bind(plans.iter().map(|plan| i64::try_from(plan.page.len()).unwrap_or(i64::MAX)).collect::<Vec<_>>())
        .bind(page.iter().map(|(plan, _)| plan.notification.item.0).collect::<Vec<Uuid>>())
        .bind(page.iter().map(|(plan, _)| integer(plan.notification.round)).collect::<Vec<_>>())
        .bind(keys().map(|key: &DeliveryKey| key.about).collect::<Vec<_>>())
        .bind(keys().map(|key| key.subscription.0).collect::<Vec<_>>())
        .bind(keys().map(|key| integer(key.round)).collect::<Vec<_>>())
        .bind(new().map(|new| new.kind.as_str().to_owned()).collect::<Vec<_>>())
        .bind(new().map(|new| new.topic.as_str().to_owned()).collect::<Vec<_>>())
        .bind(new().map(|new| Time(new.due_at)).collect::<Vec<_>>())
        .bind(new().map(|new| Time(new.created_at)).collect::<Vec<_>>())
        .bind(new().map(|new| new.trace.traceparent.clone()).collect::<Vec<_>>())
        .bind(new().map(|new| new.trace.tracestate.clone()).collect::<Vec<_>>())
        .bind(claims().map(|claim| claim.map(|claim| claim.owner.clone())).collect::<Vec<_>>())
        .bind(claims().map(|claim| claim.map(|claim| claim.token.0)).collect::<Vec<_>>())
        .bind(claims().map(|claim| claim.map(|claim| Time(claim.until))).collect::<Vec<_>>())
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 3] = [EXPANSIONS, PLAN, HELD];
