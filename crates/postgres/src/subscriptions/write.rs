//! Requests and acts: read, decided in the domain, written on the condition that nobody wrote meanwhile.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use tidings_domain::{
    address::EmailAddress,
    delivery::NewDelivery,
    id::SubscriptionId,
    subscription::{
        Act, Acted, Requested, Subscription, SubscriptionRequest, confirmation, decide_act, decide_request,
    },
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};
use uuid::Uuid;

use super::{GET, select, subscription};
use crate::{
    group::Request,
    pool::Session,
    rows::{self, Time, escape, integer},
};

const OF_ADDRESSES: &str = select!(
    "unnest($1::text[], $2::text[]) AS wanted (topic, email)
    JOIN subscriptions AS s ON s.topic = wanted.topic AND s.email = wanted.email"
);

/// Rows that nobody wrote meanwhile, with the confirmations of those among them that mail. A row that is new is of revision
/// 0, any other of the one that was read and one more.
const WRITE: &str = "WITH wanted AS MATERIALIZED (
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::integer[],
            $7::timestamptz[], $8::timestamptz[], $9::timestamptz[], $10::text[], $11::timestamptz[], $12::bigint[])
            AS wanted (id, topic, email, filter, state, generation, created_at, requested_at, confirmed_at,
                confirmed_by, unsubscribed_at, revision)
    ), made AS (
        INSERT INTO subscriptions (id, topic, email, filter, state, generation, created_at, requested_at,
            confirmed_at, confirmed_by, unsubscribed_at)
        SELECT id, topic, email, filter::json, state, generation, created_at, requested_at, confirmed_at,
            confirmed_by, unsubscribed_at FROM wanted WHERE revision IS NULL ORDER BY topic, email
        ON CONFLICT DO NOTHING RETURNING id
    ), there AS MATERIALIZED (
        SELECT s.id FROM wanted JOIN subscriptions AS s ON s.id = wanted.id AND s.revision = wanted.revision
        ORDER BY s.id FOR UPDATE OF s
    ), changed AS (
        UPDATE subscriptions AS s SET filter = wanted.filter::json, state = wanted.state,
            generation = wanted.generation, requested_at = wanted.requested_at, confirmed_at = wanted.confirmed_at,
            confirmed_by = wanted.confirmed_by, unsubscribed_at = wanted.unsubscribed_at,
            revision = s.revision + 1
        FROM there JOIN wanted ON wanted.id = there.id WHERE s.id = there.id RETURNING s.id
    ), written AS MATERIALIZED (
        SELECT id FROM made UNION ALL SELECT id FROM changed
    ), mails AS (
        INSERT INTO deliveries (about, subscription, round, kind, topic, state, due_at, created_at, traceparent,
            tracestate)
        SELECT mail.id, mail.id, mail.round, 'confirmation', mail.topic, 'pending', mail.due_at, mail.created_at,
            mail.traceparent, mail.tracestate
        FROM unnest($13::uuid[], $14::integer[], $15::text[], $16::timestamptz[], $17::timestamptz[],
            $18::text[], $19::text[])
            AS mail (id, round, topic, due_at, created_at, traceparent, tracestate)
        JOIN written ON written.id = mail.id ORDER BY mail.id, mail.round
        ON CONFLICT (about, subscription, round) DO NOTHING
    )
    SELECT id FROM written";

/// How often decisions are made anew in vain since other sessions wrote the rows meanwhile. One session always gets through.
const MAX_IN_VAIN: usize = 100;

/// A row and its revision; none for one that is to be made.
type Read = (Subscription, Option<i64>);

/// Rows that a decision is made on; a broken one is a fault of the whole read.
fn decided_on(row: &PgRow) -> sqlx::Result<Read> {
    let found = subscription(row).map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    let revision = sqlx::Row::try_get::<i64, _>(row, 11)?;
    Ok((found, Some(revision)))
}

/// Writes `changed` rows, each decided on at its revision, and their `mails`; answers the ids of those that were written.
async fn write(
    session: &mut Session,
    mut changed: Vec<Read>,
    mails: Vec<NewDelivery>,
) -> sqlx::Result<Vec<Uuid>> {
    changed.sort_by_key(|(subscription, _)| subscription.id);
    let all = || changed.iter().map(|(subscription, _)| subscription);
    let times = |of: fn(&Subscription) -> Option<Timestamp>| -> Vec<Option<Time>> {
        all().map(|subscription| of(subscription).map(Time)).collect()
    };
    let statement = sqlx::query(WRITE)
        .bind(all().map(|s| s.id.0).collect::<Vec<Uuid>>())
        .bind(all().map(|s| s.topic.as_str().to_owned()).collect::<Vec<_>>())
        .bind(all().map(|s| s.email.as_str().to_owned()).collect::<Vec<_>>())
        .bind(all().map(|s| s.filter.to_json().to_string()).collect::<Vec<_>>())
        .bind(all().map(|s| s.state.as_str().to_owned()).collect::<Vec<_>>())
        .bind(all().map(|s| integer(s.generation)).collect::<Vec<_>>())
        .bind(times(|s| Some(s.created_at)))
        .bind(times(|s| Some(s.requested_at)))
        .bind(times(|s| s.confirmed_at))
        .bind(all().map(|s| s.confirmed_by.as_deref().map(escape)).collect::<Vec<_>>())
        .bind(times(|s| s.unsubscribed_at))
        .bind(changed.iter().map(|(_, revision)| *revision).collect::<Vec<_>>())
        .bind(mails.iter().map(|mail| mail.key.about).collect::<Vec<_>>())
        .bind(mails.iter().map(|mail| integer(mail.key.round)).collect::<Vec<_>>())
        .bind(mails.iter().map(|mail| mail.topic.as_str().to_owned()).collect::<Vec<_>>())
        .bind(mails.iter().map(|mail| Time(mail.due_at)).collect::<Vec<_>>())
        .bind(mails.iter().map(|mail| Time(mail.created_at)).collect::<Vec<_>>())
        .bind(mails.iter().map(|mail| mail.trace.traceparent.clone()).collect::<Vec<_>>())
        .bind(mails.iter().map(|mail| mail.trace.tracestate.clone()).collect::<Vec<_>>());
    Ok(session.rows(statement).await?.iter().filter_map(|row| rows::optional_id(row, 0)).collect())
}

/// Decides again and again on what is read until all of it is written. `decide` answers for each request that is still to
/// be answered what it comes to, and the row to write where it changes one: the first for a row in a round, the others wait.
struct Pending<'a, R, A> {
    requests: &'a [R],
    answers: Vec<Option<A>>,
    in_vain: usize,
    left: usize,
}

impl<'a, R, A> Pending<'a, R, A> {
    fn new(requests: &'a [R]) -> Self {
        let answers = requests.iter().map(|_| None).collect();
        Self { requests, answers, in_vain: 0, left: usize::MAX }
    }

    /// What has no answer yet; none once there is no hope.
    fn next_round(&mut self) -> Option<Vec<(usize, &'a R)>> {
        let open = self.requests.iter().enumerate();
        let open: Vec<_> = open.filter(|(index, _)| self.answers[*index].is_none()).collect();
        self.in_vain = if open.len() < self.left { 0 } else { self.in_vain + 1 };
        self.left = open.len();
        Some(open).filter(|open| !open.is_empty() && self.in_vain < MAX_IN_VAIN)
    }

    fn finish(self) -> sqlx::Result<Vec<A>> {
        let answers: Option<Vec<A>> = self.answers.into_iter().collect();
        answers.ok_or_else(|| sqlx::Error::Protocol("others wrote the same row without end".to_owned()))
    }
}

/// Someone wishes to be mailed.
pub(crate) struct Wish {
    pub(super) request: SubscriptionRequest,
    pub(super) trace: TraceContext,
}

impl Request for Wish {
    type Answer = Requested;

    const WHAT: &'static str = "ask for a subscription";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Requested>> {
        let key = |topic: &TopicName, email: &EmailAddress| (topic.clone(), email.clone());
        let mut pending = Pending::new(requests);
        while let Some(open) = pending.next_round() {
            let wanted: std::collections::BTreeSet<_> =
                open.iter().map(|(_, wish)| key(&wish.request.topic, &wish.request.email)).collect();
            let statement = sqlx::query(OF_ADDRESSES)
                .bind(wanted.iter().map(|(topic, _)| topic.as_str().to_owned()).collect::<Vec<_>>())
                .bind(wanted.iter().map(|(_, email)| email.as_str().to_owned()).collect::<Vec<_>>());
            let there: BTreeMap<_, Read> = session
                .rows(statement)
                .await?
                .iter()
                .map(|row| decided_on(row).map(|read| (key(&read.0.topic, &read.0.email), read)))
                .collect::<sqlx::Result<_>>()?;
            let (mut changed, mut mails, mut deciding) = (Vec::new(), Vec::new(), BTreeMap::new());
            for (index, Wish { request, trace }) in open {
                let key = key(&request.topic, &request.email);
                if deciding.contains_key(&key) {
                    continue;
                }
                let row = there.get(&key);
                let requested = decide_request(row.map(|(row, _)| row), request);
                if !requested.changed {
                    pending.answers[index] = Some(requested);
                    continue;
                }
                changed.push((requested.subscription.clone(), row.and_then(|(_, revision)| *revision)));
                if requested.mail {
                    mails.push(confirmation(&requested.subscription, request.at, trace));
                }
                deciding.insert(key, (index, requested));
            }
            if !changed.is_empty() {
                let written = write(session, changed, mails).await?;
                for (index, requested) in deciding.into_values() {
                    if written.contains(&requested.subscription.id.0) {
                        pending.answers[index] = Some(requested);
                    }
                }
            }
        }
        pending.finish()
    }
}

/// A link was followed.
pub(crate) struct ActOn {
    pub(super) id: SubscriptionId,
    pub(super) act: Act,
    pub(super) generation: u32,
    pub(super) at: Timestamp,
}

impl Request for ActOn {
    type Answer = Acted;

    const WHAT: &'static str = "change a subscription";

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Acted>> {
        let mut pending = Pending::new(requests);
        while let Some(open) = pending.next_round() {
            let wanted: std::collections::BTreeSet<Uuid> = open.iter().map(|(_, act)| act.id.0).collect();
            let statement = sqlx::query(GET).bind(wanted.into_iter().collect::<Vec<_>>());
            let there: BTreeMap<_, Read> = session
                .rows(statement)
                .await?
                .iter()
                .map(|row| decided_on(row).map(|read| (read.0.id, read)))
                .collect::<sqlx::Result<_>>()?;
            let (mut changed, mut deciding) = (Vec::new(), BTreeMap::new());
            for (index, request) in open {
                if deciding.contains_key(&request.id) {
                    continue;
                }
                let row = there.get(&request.id);
                let acted = decide_act(row.map(|(row, _)| row), request.act, request.generation, request.at);
                match (&acted, row) {
                    (Acted::Done(subscription), Some((_, revision))) => {
                        changed.push((subscription.clone(), *revision));
                        deciding.insert(request.id, (index, acted));
                    }
                    _ => pending.answers[index] = Some(acted),
                }
            }
            if !changed.is_empty() {
                let written = write(session, changed, Vec::new()).await?;
                for (id, (index, acted)) in deciding {
                    if written.contains(&id.0) {
                        pending.answers[index] = Some(acted);
                    }
                }
            }
        }
        pending.finish()
    }
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 2] = [OF_ADDRESSES, WRITE];
