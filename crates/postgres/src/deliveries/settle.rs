//! Ending attempts, and beginning anew.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Row as _, postgres::PgRow};
use tidings_domain::{
    Result,
    dead_letter::DeadLetter,
    delivery::{Answer, DeliveryKey, DeliveryState, LeaseToken, MAX_ANSWERS, Outcome},
    time::Timestamp,
};
use uuid::Uuid;

use super::undecodable;
use crate::{
    dead_letters::{self, letters, rewrite},
    fault::readable,
    group::Request,
    pool::{Session, Statement},
    rows::{self, Time, integer, to_json},
    shared::Shared,
};

/// [`tidings_domain::delivery::after`] as SQL (the conformance suite holds the two together), where the token still holds the
/// row. A closed row keeps its token, so that the same outcome told twice is known for that. Answers places.
macro_rules! settle {
    () => {
        "UPDATE deliveries AS d SET state = ended.state, due_at = coalesce(ended.due_at, d.due_at),
            lease_owner = NULL, lease_until = NULL,
            lease_token = CASE ended.state WHEN 'pending' THEN NULL ELSE d.lease_token END,
            attempts = d.attempts + ended.attempts, unknowns = d.unknowns + ended.unknowns, counted = false,
            answers = CASE
                WHEN ended.answer IS NULL THEN d.answers
                ELSE (d.answers || ended.answer::json)[greatest(1, cardinality(d.answers) + 2 - $11::integer):]
            END,
            sent_at = coalesce(ended.sent_at, d.sent_at)
        FROM unnest($1::uuid[], $2::uuid[], $3::integer[], $4::uuid[], $5::text[], $6::timestamptz[],
            $7::integer[], $8::integer[], $9::text[], $10::timestamptz[]) WITH ORDINALITY
            AS ended (about, subscription, round, token, state, due_at, attempts, unknowns, answer, sent_at, place)
        WHERE d.about = ended.about AND d.subscription = ended.subscription AND d.round = ended.round
            AND d.lease_token = ended.token AND d.leased
        RETURNING ended.place"
    };
}

const SETTLE: &str = settle!();

/// With the letters of what was settled, in the same statement. A row that is there already is of a redrive that has not
/// ended: it is written anew and its lease given up, so that the end of the redrive does not take it away.
const SETTLE_WITH_LETTERS: &str = concat!(
    "WITH settled AS MATERIALIZED (",
    settle!(),
    "), written AS (INSERT INTO dead_letters ",
    letters!(
        "$12", "$13", "$14", "$15", "$16", "$17", "$18", "$19", "$20", "$21", "$22", "$23", "$24", "$25",
        "$26"
    ),
    " JOIN settled ON settled.place = letter.place ORDER BY letter.id ON CONFLICT (id) ",
    rewrite!(),
    ") SELECT place FROM settled"
);

/// What is closed, and by which token.
const LOOK: &str = "SELECT d.about, d.subscription, d.round, d.lease_token, d.state
    FROM unnest($1::uuid[], $2::uuid[], $3::integer[]) AS wanted (about, subscription, round)
    JOIN deliveries AS d ON d.about = wanted.about AND d.subscription = wanted.subscription
        AND d.round = wanted.round AND NOT d.waiting AND NOT d.leased";

const REVIVE: &str = "WITH failed AS MATERIALIZED (
        SELECT d.about, d.subscription, d.round
        FROM unnest($1::uuid[], $2::uuid[], $3::integer[]) AS wanted (about, subscription, round)
        JOIN deliveries AS d ON d.about = wanted.about AND d.subscription = wanted.subscription
            AND d.round = wanted.round AND d.state = 'failed'
        ORDER BY d.about, d.subscription, d.round FOR UPDATE OF d
    )
    UPDATE deliveries AS d SET state = 'pending', due_at = $4, lease_owner = NULL, lease_token = NULL,
        lease_until = NULL, attempts = 0, unknowns = 0, counted = false
    FROM failed WHERE d.about = failed.about AND d.subscription = failed.subscription AND d.round = failed.round";

/// How attempts ended.
pub(crate) struct Settle {
    pub(super) outcomes: Vec<(DeliveryKey, LeaseToken, Outcome)>,
    pub(super) at: Timestamp,
}

/// What an outcome writes.
struct Ended<'a> {
    state: DeliveryState,
    due_at: Option<Timestamp>,
    attempts: u32,
    unknowns: u32,
    answer: Option<&'a Answer>,
    sent_at: Option<Timestamp>,
    letter: Option<&'a DeadLetter>,
}

fn ended(outcome: &Outcome, at: Timestamp) -> Ended<'_> {
    let without_answer = |state| Ended {
        state,
        due_at: None,
        attempts: 0,
        unknowns: 0,
        answer: None,
        sent_at: None,
        letter: None,
    };
    let pending =
        |due_at: Timestamp| Ended { due_at: Some(due_at), ..without_answer(DeliveryState::Pending) };
    match outcome {
        Outcome::Sent { answer } => Ended {
            attempts: 1,
            answer: Some(answer),
            sent_at: Some(at),
            ..without_answer(DeliveryState::Sent)
        },
        Outcome::Released { due_at } => pending(*due_at),
        Outcome::Retry { answer, due_at } => Ended { attempts: 1, answer: Some(answer), ..pending(*due_at) },
        Outcome::Unknown { answer, due_at } => {
            Ended { attempts: 1, unknowns: 1, answer: Some(answer), ..pending(*due_at) }
        }
        Outcome::Suppressed => without_answer(DeliveryState::Suppressed),
        Outcome::Failed { answer, unknown, dead_letter } => Ended {
            attempts: u32::from(answer.is_some()),
            unknowns: u32::from(answer.is_some() && *unknown),
            answer: answer.as_ref(),
            letter: Some(dead_letter),
            ..without_answer(DeliveryState::Failed)
        },
    }
}

type Held = (DeliveryKey, LeaseToken);

impl Request for Settle {
    /// Whether each was settled.
    type Answer = Vec<bool>;

    const WHAT: &'static str = "settle deliveries";

    fn rows(&self) -> usize {
        self.outcomes.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Vec<bool>>> {
        // Told twice by one token, the first counts and the second is compared with what it came to.
        let mut first: BTreeMap<Held, Ended<'_>> = BTreeMap::new();
        for Settle { outcomes, at } in requests {
            for (key, token, outcome) in outcomes {
                first.entry((*key, *token)).or_insert_with(|| ended(outcome, *at));
            }
        }
        let keys: Vec<Held> = first.keys().copied().collect();
        let mut settled: BTreeSet<Held> = BTreeSet::new();
        for row in &session.rows(statement(&first)).await? {
            let place = row.try_get::<i64, _>(0)?;
            let held = usize::try_from(place - 1).ok().and_then(|place| keys.get(place));
            settled.insert(*held.ok_or(sqlx::Error::RowNotFound)?);
        }
        let told: usize = requests.iter().map(|request| request.outcomes.len()).sum();
        let closed = match settled.len() == told {
            true => BTreeMap::new(),
            false => look(session, keys.iter().map(|(key, _)| *key)).await?,
        };
        let mut answer = |key: DeliveryKey, token: LeaseToken, outcome: &Outcome, at: Timestamp| {
            settled.remove(&(key, token))
                // Settled by the same token before: well when it says the same.
                || closed.get(&key) == Some(&(token, ended(outcome, at).state))
        };
        Ok(requests
            .iter()
            .map(|Settle { outcomes, at }| {
                outcomes.iter().map(|(key, token, outcome)| answer(*key, *token, outcome, *at)).collect()
            })
            .collect())
    }
}

/// The statement that settles, sorted by key.
fn statement(outcomes: &BTreeMap<Held, Ended<'_>>) -> Statement {
    let keys = || outcomes.keys();
    let ended = || outcomes.values();
    let letters: Vec<(i64, &DeadLetter)> =
        (1..).zip(ended()).filter_map(|(place, ended)| Some((place, ended.letter?))).collect();
    let statement = sqlx::query(if letters.is_empty() { SETTLE } else { SETTLE_WITH_LETTERS })
        .bind(keys().map(|(key, _)| key.about).collect::<Vec<Uuid>>())
        .bind(keys().map(|(key, _)| key.subscription.0).collect::<Vec<Uuid>>())
        .bind(keys().map(|(key, _)| integer(key.round)).collect::<Vec<_>>())
        .bind(keys().map(|(_, token)| token.0).collect::<Vec<Uuid>>())
        .bind(ended().map(|ended| ended.state.as_str().to_owned()).collect::<Vec<_>>())
        .bind(ended().map(|ended| ended.due_at.map(Time)).collect::<Vec<_>>())
        .bind(ended().map(|ended| integer(ended.attempts)).collect::<Vec<_>>())
        .bind(ended().map(|ended| integer(ended.unknowns)).collect::<Vec<_>>())
        .bind(ended().map(|ended| ended.answer.map(to_json)).collect::<Vec<_>>())
        .bind(ended().map(|ended| ended.sent_at.map(Time)).collect::<Vec<_>>())
        .bind(i32::try_from(MAX_ANSWERS).unwrap_or(i32::MAX));
    match letters.is_empty() {
        true => statement,
        false => dead_letters::bind(statement, &letters),
    }
}

/// What of `keys` is closed, with the token that closed it.
async fn look(
    session: &mut Session,
    keys: impl Iterator<Item = DeliveryKey>,
) -> sqlx::Result<BTreeMap<DeliveryKey, (LeaseToken, DeliveryState)>> {
    let keys: BTreeSet<DeliveryKey> = keys.collect();
    let read = |row: &PgRow| -> Result<Option<(DeliveryKey, (LeaseToken, DeliveryState))>> {
        let state = readable(rows::text(row, 4).and_then(DeliveryState::parse), "state")?;
        let token = rows::optional_id(row, 3);
        token.map(|token| Ok((super::key(row)?, (LeaseToken(token), state)))).transpose()
    };
    let found = session.rows(bind_keys(LOOK, keys.iter())).await?;
    found.iter().filter_map(|row| read(row).transpose()).collect::<Result<_>>().map_err(undecodable)
}

fn bind_keys<'a>(statement: &'static str, keys: impl Iterator<Item = &'a DeliveryKey> + Clone) -> Statement {
    sqlx::query(statement)
        .bind(keys.clone().map(|key| key.about).collect::<Vec<Uuid>>())
        .bind(keys.clone().map(|key| key.subscription.0).collect::<Vec<Uuid>>())
        .bind(keys.map(|key| integer(key.round)).collect::<Vec<_>>())
}

/// Makes failed deliveries due again.
pub(super) async fn revive(shared: &Shared, keys: &[DeliveryKey], due_at: Timestamp) -> Result<()> {
    let keys: BTreeSet<DeliveryKey> = keys.iter().copied().collect();
    shared.write("revive deliveries", || bind_keys(REVIVE, keys.iter()).bind(Time(due_at))).await?;
    Ok(())
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 4] = [SETTLE, SETTLE_WITH_LETTERS, LOOK, REVIVE];
