//! Recording `sending`, and holding on to a lease.

use std::collections::BTreeSet;

use sqlx::{Row as _, postgres::PgRow};
use tidings_domain::{
    delivery::{DeliveryKey, LeaseToken, Sending},
    time::Timestamp,
};
use uuid::Uuid;

use crate::{
    group::Request,
    pool::{Session, Statement},
    rows::{Time, integer},
};

/// Whether the recipient still wants the mail: [`tidings_domain::subscription::is_wanted`] as SQL of a delivery `d` and its
/// subscription `s`; a test holds the two together.
macro_rules! wanted {
    () => {
        "CASE d.kind WHEN 'item' THEN s.state = 'confirmed' ELSE s.state = 'pending' AND s.generation = d.round END"
    };
}

macro_rules! held {
    () => {
        "unnest($1::uuid[], $2::uuid[], $3::integer[], $4::uuid[], $5::timestamptz[]) WITH ORDINALITY
            AS held (about, subscription, round, token, until, place)"
    };
}

/// The lease check and the last look at the subscription in one conditional write. Answers the places of what was recorded.
const RECORD: &str = concat!(
    "UPDATE deliveries AS d SET state = 'sending', lease_until = held.until, counted = false FROM ",
    held!(),
    ", subscriptions AS s
    WHERE d.about = held.about AND d.subscription = held.subscription AND d.round = held.round
        AND d.lease_token = held.token AND d.leased AND s.id = held.subscription AND ",
    wanted!(),
    " RETURNING held.place"
);

/// What is held of that which was not recorded: asked only then.
const LOOK: &str = concat!(
    "SELECT held.place FROM ",
    held!(),
    " JOIN deliveries AS d ON d.about = held.about AND d.subscription = held.subscription
        AND d.round = held.round AND d.lease_token = held.token AND d.leased"
);

/// Rows are locked in the order of their keys: others of the same mailer may be settled meanwhile.
const EXTEND: &str = concat!(
    "WITH there AS MATERIALIZED (
        SELECT d.about, d.subscription, d.round, held.until, held.place FROM ",
    held!(),
    " JOIN deliveries AS d ON d.about = held.about AND d.subscription = held.subscription
            AND d.round = held.round AND d.lease_token = held.token AND d.leased
        ORDER BY d.about, d.subscription, d.round FOR UPDATE OF d
    )
    UPDATE deliveries AS d SET lease_until = there.until FROM there
    WHERE d.about = there.about AND d.subscription = there.subscription AND d.round = there.round
    RETURNING there.place"
);

/// What is held, sorted by key.
struct Held(Vec<(DeliveryKey, LeaseToken, Timestamp)>);

impl Held {
    fn of<'a>(requests: impl Iterator<Item = (&'a Vec<(DeliveryKey, LeaseToken)>, Timestamp)>) -> Self {
        let mut all: Vec<_> = requests
            .flat_map(|(held, until)| held.iter().map(move |(key, token)| (*key, *token, until)))
            .collect();
        // Told twice it is held until the later time.
        all.sort_unstable_by_key(|(key, token, until)| (*key, *token, std::cmp::Reverse(*until)));
        all.dedup_by_key(|(key, token, _)| (*key, *token));
        Self(all)
    }

    fn bind(&self, statement: &'static str) -> Statement {
        let all = || self.0.iter();
        sqlx::query(statement)
            .bind(all().map(|(key, ..)| key.about).collect::<Vec<Uuid>>())
            .bind(all().map(|(key, ..)| key.subscription.0).collect::<Vec<Uuid>>())
            .bind(all().map(|(key, ..)| integer(key.round)).collect::<Vec<_>>())
            .bind(all().map(|(_, token, _)| token.0).collect::<Vec<Uuid>>())
            .bind(all().map(|(.., until)| Time(*until)).collect::<Vec<_>>())
    }

    /// Runs a statement that answers places; what stands there.
    async fn run(
        &self,
        session: &mut Session,
        statement: &'static str,
    ) -> sqlx::Result<BTreeSet<(DeliveryKey, LeaseToken)>> {
        let found = session.rows(self.bind(statement)).await?;
        let at = |row: &PgRow| {
            let place = row.try_get::<i64, _>(0)?;
            let held = usize::try_from(place - 1).ok().and_then(|place| self.0.get(place));
            held.map(|(key, token, _)| (*key, *token)).ok_or(sqlx::Error::RowNotFound)
        };
        found.iter().map(at).collect()
    }

    /// What `done` does not hold.
    fn without(self, done: &BTreeSet<(DeliveryKey, LeaseToken)>) -> Self {
        Self(self.0.into_iter().filter(|(key, token, _)| !done.contains(&(*key, *token))).collect())
    }
}

/// Attempts about to be made.
pub(crate) struct RecordSending {
    pub(super) held: Vec<(DeliveryKey, LeaseToken)>,
    pub(super) until: Timestamp,
}

impl Request for RecordSending {
    type Answer = Vec<Sending>;

    const WHAT: &'static str = "record sending";

    fn rows(&self) -> usize {
        self.held.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Vec<Sending>>> {
        let held = Held::of(requests.iter().map(|request| (&request.held, request.until)));
        let recorded = held.run(session, RECORD).await?;
        let rest = held.without(&recorded);
        let held = match rest.0.is_empty() {
            true => BTreeSet::new(),
            false => rest.run(session, LOOK).await?,
        };
        let answer = |held_by: &(DeliveryKey, LeaseToken)| match recorded.contains(held_by) {
            true => Sending::Recorded,
            false if held.contains(held_by) => Sending::NotSubscribed,
            false => Sending::LeaseLost,
        };
        Ok(requests.iter().map(|request| request.held.iter().map(answer).collect()).collect())
    }
}

/// Leases to extend.
pub(crate) struct Extend {
    pub(super) held: Vec<(DeliveryKey, LeaseToken)>,
    pub(super) until: Timestamp,
}

impl Request for Extend {
    type Answer = Vec<bool>;

    const WHAT: &'static str = "extend leases of deliveries";

    fn rows(&self) -> usize {
        self.held.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Vec<bool>>> {
        let held = Held::of(requests.iter().map(|request| (&request.held, request.until)));
        let extended = held.run(session, EXTEND).await?;
        let answer = |request: &Self| request.held.iter().map(|held| extended.contains(held)).collect();
        Ok(requests.iter().map(answer).collect())
    }
}

/// The rule of the last look, for the test that holds it to the domain's.
#[cfg(test)]
pub(crate) const WANTED: &str = concat!(
    "SELECT coalesce(bool_or(",
    wanted!(),
    "), false) FROM (VALUES ($1::text, $2::integer)) AS d (kind, round), subscriptions AS s WHERE s.id = $3"
);

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 4] = [RECORD, LOOK, EXTEND, WANTED];
