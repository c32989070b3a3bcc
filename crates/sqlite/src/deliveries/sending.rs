//! Recording `sending`, and holding on to a lease.

use std::collections::BTreeMap;

use tidings_domain::{
    delivery::{DeliveryKey, LeaseToken, Sending},
    time::Timestamp,
};

use crate::{
    group::{Request, Session},
    rows::{self, to_json},
};

/// Whether the recipient still wants the mail: [`tidings_domain::subscription::is_wanted`] as SQL; a test holds the two
/// together.
macro_rules! wanted {
    ($delivery:literal) => {
        concat!(
            "EXISTS (
                SELECT 1 FROM subscriptions AS s WHERE s.id = ",
            $delivery,
            ".subscription AND CASE ",
            $delivery,
            ".kind
                    WHEN 'item' THEN s.state = 'confirmed'
                    ELSE s.state = 'pending' AND s.generation = ",
            $delivery,
            ".round
                END
            )"
        )
    };
}

/// The lease check and the last look at the subscription in one conditional write.
const RECORD: &str = concat!(
    "UPDATE deliveries SET state = 'sending', wake_at = held.value ->> 4, counted = 0
    FROM json_each(?1) AS held
    WHERE about = held.value ->> 0 AND subscription = held.value ->> 1 AND round = held.value ->> 2
        AND lease_token = held.value ->> 3 AND wake_at IS NOT NULL AND ",
    wanted!("deliveries")
);

/// Why not all of them were recorded: asked only then.
const LOOK: &str = concat!(
    "SELECT d.about, d.subscription, d.round, d.lease_token, ",
    wanted!("d"),
    " FROM json_each(?1) AS held
    CROSS JOIN deliveries AS d ON d.about = held.value ->> 0 AND d.subscription = held.value ->> 1
        AND d.round = held.value ->> 2 AND d.lease_token = held.value ->> 3 AND d.wake_at IS NOT NULL"
);

const EXTEND: &str = "UPDATE deliveries SET wake_at = held.value ->> 4
    FROM json_each(?1) AS held
    WHERE about = held.value ->> 0 AND subscription = held.value ->> 1 AND round = held.value ->> 2
        AND lease_token = held.value ->> 3 AND wake_at IS NOT NULL";

/// What is held, for the statements.
fn held<'a>(
    requests: impl Iterator<Item = (&'a Vec<(DeliveryKey, LeaseToken)>, Timestamp)>,
) -> (String, u64) {
    let mut all: Vec<_> = requests
        .flat_map(|(held, until)| held.iter().map(move |(key, token)| (*key, *token, until)))
        .collect();
    all.sort_unstable();
    let all: Vec<_> = all
        .into_iter()
        .map(|(key, token, until)| (key.about, key.subscription, key.round, token.0, until.as_millis()))
        .collect();
    (to_json(&all), all.len() as u64)
}

/// What is held under the given tokens, with whether it is wanted.
async fn look(
    session: &mut Session,
    held: String,
) -> sqlx::Result<BTreeMap<(DeliveryKey, LeaseToken), bool>> {
    let found = sqlx::query(LOOK).bind(held).fetch_all(&mut session.connection).await?;
    found
        .iter()
        .map(|row| {
            let token = LeaseToken(rows::id(row, 3, "lease token")?);
            Ok(((super::key(row)?, token), rows::number::<u8>(row, 4, "mark")? == 1))
        })
        .collect::<tidings_domain::Result<_>>()
        .map_err(|error| sqlx::Error::Decode(Box::new(error)))
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
        let (json, count) = held(requests.iter().map(|request| (&request.held, request.until)));
        let recorded = sqlx::query(RECORD).bind(json.clone()).execute(&mut session.connection).await?;
        if recorded.rows_affected() == count {
            let all = |request: &Self| vec![Sending::Recorded; request.held.len()];
            return Ok(requests.iter().map(all).collect());
        }
        // A token is the row's or it is not: each is looked at with its own.
        let mut answers = Vec::with_capacity(requests.len());
        let found = look(session, json).await?;
        for request in requests {
            let answer = |(key, token): &(DeliveryKey, LeaseToken)| match found.get(&(*key, *token)) {
                Some(true) => Sending::Recorded,
                Some(false) => Sending::NotSubscribed,
                None => Sending::LeaseLost,
            };
            answers.push(request.held.iter().map(answer).collect());
        }
        Ok(answers)
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
        let (json, count) = held(requests.iter().map(|request| (&request.held, request.until)));
        let extended = sqlx::query(EXTEND).bind(json.clone()).execute(&mut session.connection).await?;
        if extended.rows_affected() == count {
            return Ok(requests.iter().map(|request| vec![true; request.held.len()]).collect());
        }
        let found = look(session, json).await?;
        let answer = |request: &Self| request.held.iter().map(|held| found.contains_key(held)).collect();
        Ok(requests.iter().map(answer).collect())
    }
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 3] = [RECORD, LOOK, EXTEND];

#[cfg(test)]
mod tests {
    use tidings_domain::{
        address::EmailAddress,
        delivery::DeliveryKind,
        id::SubscriptionId,
        subscription::{Subscription, SubscriptionState, is_wanted},
        topic::TopicName,
    };
    use uuid::Uuid;

    use super::*;

    const WANTED: &str = concat!(
        "WITH d (kind, subscription, round) AS (VALUES (?1, '00000000-0000-0000-0000-000000000001', ?2)) SELECT ",
        wanted!("d"),
        " FROM d"
    );

    #[tokio::test]
    async fn the_last_look_is_the_rule_of_the_domain() {
        let mut connection = crate::statements::migrated().await;
        let subscription = |state| Subscription {
            id: SubscriptionId(Uuid::from_u128(1)),
            topic: TopicName::messages(),
            email: EmailAddress::parse("ann@example.com").unwrap(),
            filter: Default::default(),
            state,
            generation: 3,
            created_at: Timestamp::default(),
            requested_at: Timestamp::default(),
            confirmed_at: None,
            confirmed_by: None,
            unsubscribed_at: None,
        };
        let states =
            ["pending", "confirmed", "unsubscribed"].map(|word| SubscriptionState::parse(word).unwrap());
        for state in states.map(Some).into_iter().chain([None]) {
            sqlx::query("DELETE FROM subscriptions").execute(&mut connection).await.unwrap();
            if let Some(state) = state {
                sqlx::query(
                    "INSERT INTO subscriptions (id, topic, email, filter, state, generation, created_at, requested_at)
                    VALUES ('00000000-0000-0000-0000-000000000001', 'messages', 'a@example.com', '{}', ?1, 3, 0, 0)",
                )
                .bind(state.as_str())
                .execute(&mut connection)
                .await
                .unwrap();
            }
            for kind in [DeliveryKind::Item, DeliveryKind::Confirmation] {
                for round in [0, 2, 3, 4_u32] {
                    let by_sql: bool = sqlx::query_scalar(WANTED)
                        .bind(kind.as_str())
                        .bind(round)
                        .fetch_one(&mut connection)
                        .await
                        .unwrap();
                    let by_rule = is_wanted(state.map(subscription).as_ref(), kind, round);
                    assert_eq!(by_sql, by_rule, "{state:?} {kind:?} {round}");
                }
            }
        }
    }
}
