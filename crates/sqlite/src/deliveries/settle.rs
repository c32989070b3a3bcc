//! Ending attempts, and beginning anew.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use tidings_domain::{
    Result,
    dead_letter::DeadLetter,
    delivery::{Delivery, DeliveryKey, LeaseToken, Outcome, after},
    time::Timestamp,
};
use uuid::Uuid;

use super::{columns, delivery};
use crate::{
    dead_letters,
    group::{Request, Session},
    rows::{self, to_json},
};

const GET: &str = concat!(
    "SELECT ",
    columns!(),
    ", deliveries.lease_token FROM json_each(?1) AS wanted CROSS JOIN deliveries
    ON about = wanted.value ->> 0 AND subscription = wanted.value ->> 1 AND round = wanted.value ->> 2"
);

/// A closed row keeps its token, so that the same outcome told twice is known for that.
const WRITE: &str =
    "UPDATE deliveries SET state = new.value ->> 3, due_at = new.value ->> 4, wake_at = new.value ->> 5,
        lease_token = new.value ->> 6, attempts = new.value ->> 7, unknowns = new.value ->> 8,
        answers = new.value ->> 9, sent_at = new.value ->> 10, lease_owner = NULL, counted = 0
    FROM json_each(?1) AS new
    WHERE about = new.value ->> 0 AND subscription = new.value ->> 1 AND round = new.value ->> 2";

const REVIVE: &str = "UPDATE deliveries SET state = 'pending', due_at = ?2, wake_at = ?2, lease_owner = NULL,
        lease_token = NULL, attempts = 0, unknowns = 0, counted = 0
    FROM json_each(?1) AS failed
    WHERE about = failed.value ->> 0 AND subscription = failed.value ->> 1 AND round = failed.value ->> 2
        AND state = 'failed'";

/// What is under way is left to its holder, who knows how it ended.
const SUPPRESS: &str =
    "UPDATE deliveries SET state = 'suppressed', wake_at = NULL, lease_owner = NULL, lease_token = NULL
    WHERE wake_at IS NOT NULL AND state = 'pending' AND subscription IN (SELECT value FROM json_each(?1))";

/// How attempts ended.
pub(crate) struct Settle {
    pub(super) outcomes: Vec<(DeliveryKey, LeaseToken, Outcome)>,
    pub(super) at: Timestamp,
}

/// A row with the token that holds it, or held it last.
struct Held {
    delivery: Delivery,
    token: Option<Uuid>,
    changed: bool,
}

fn held(row: &SqliteRow) -> Result<(DeliveryKey, Held)> {
    let delivery = delivery(row)?;
    let token = rows::text(row, 14).and_then(|token| Uuid::try_parse(token).ok());
    Ok((delivery.key, Held { delivery, token, changed: false }))
}

impl Request for Settle {
    /// Whether each was settled.
    type Answer = Vec<bool>;

    const WHAT: &'static str = "settle deliveries";

    fn rows(&self) -> usize {
        self.outcomes.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Vec<bool>>> {
        let mut keys: Vec<_> =
            requests.iter().flat_map(|request| &request.outcomes).map(|(key, _, _)| *key).collect();
        keys.sort_unstable();
        keys.dedup();
        let keys: Vec<_> = keys.iter().map(super::plan::columns).collect();
        let found = sqlx::query(GET).bind(to_json(&keys)).fetch_all(&mut session.connection).await?;
        let mut there: BTreeMap<_, _> = found
            .iter()
            .map(held)
            .collect::<Result<_>>()
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        let mut letters: Vec<&DeadLetter> = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for Settle { outcomes, at } in requests {
            let mut settled = Vec::with_capacity(outcomes.len());
            for (key, token, outcome) in outcomes {
                let row = there.get_mut(key).filter(|held| held.token == Some(token.0));
                settled.push(match row {
                    None => false,
                    // Settled by the same token before: well when it says the same.
                    Some(held) if !held.delivery.state.is_open() => {
                        after(held.delivery.clone(), outcome, *at).state == held.delivery.state
                    }
                    Some(held) => {
                        held.delivery = after(held.delivery.clone(), outcome, *at);
                        held.changed = true;
                        if held.delivery.state.is_open() {
                            held.token = None;
                        }
                        if let Outcome::Failed { dead_letter, .. } = outcome {
                            letters.push(dead_letter);
                        }
                        true
                    }
                });
            }
            answers.push(settled);
        }
        let changed: Vec<_> = there.values().filter(|held| held.changed).map(row).collect();
        if !changed.is_empty() {
            sqlx::query(WRITE).bind(to_json(&changed)).execute(&mut session.connection).await?;
        }
        dead_letters::write(session, letters).await?;
        Ok(answers)
    }
}

/// A row in the order of [`WRITE`].
fn row(held: &Held) -> impl serde::Serialize {
    let delivery = &held.delivery;
    let key = delivery.key;
    let due_at = delivery.due_at.as_millis();
    (
        key.about,
        key.subscription,
        key.round,
        delivery.state.as_str(),
        due_at,
        delivery.state.is_open().then_some(due_at),
        held.token,
        delivery.attempts,
        delivery.unknowns,
        to_json(&delivery.answers),
        delivery.sent_at.map(Timestamp::as_millis),
    )
}

/// Failed deliveries that are to be tried again.
pub(crate) struct Revive {
    pub(super) keys: Vec<DeliveryKey>,
    pub(super) due_at: Timestamp,
}

impl Request for Revive {
    type Answer = ();

    const WHAT: &'static str = "revive deliveries";

    fn rows(&self) -> usize {
        self.keys.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        // The time is each call's own: one statement a call. Redrives are a person's act.
        for Revive { keys, due_at } in requests {
            let keys: Vec<_> = keys.iter().map(super::plan::columns).collect();
            sqlx::query(REVIVE)
                .bind(to_json(&keys))
                .bind(due_at.as_millis())
                .execute(&mut session.connection)
                .await?;
        }
        Ok(vec![(); requests.len()])
    }
}

/// Ends what is open of subscriptions that are gone; `ids` is a JSON list.
pub(crate) async fn suppress(session: &mut Session, ids: String) -> sqlx::Result<()> {
    sqlx::query(SUPPRESS).bind(ids).execute(&mut session.connection).await?;
    Ok(())
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 4] = [GET, WRITE, REVIVE, SUPPRESS];
