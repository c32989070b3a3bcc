//! Claiming what is due.

use tidings_domain::{
    Result,
    delivery::{Claim, ClaimedDelivery, DeliveryState},
};

use super::{columns, delivery};
use crate::group::{Request, Session};

/// A `sending` row whose lease ran out is unknown: it stays `sending`, so that nobody takes it for untried, and its attempt
/// is counted once however often it is claimed before it is tried again.
const CLAIM: &str = concat!(
    "UPDATE deliveries SET lease_owner = ?1, lease_token = ?2, wake_at = ?3,
        attempts = attempts + (state = 'sending' AND counted = 0),
        unknowns = unknowns + (state = 'sending' AND counted = 0),
        counted = (state = 'sending')
    WHERE (about, subscription, round) IN (
        SELECT about, subscription, round FROM deliveries WHERE wake_at <= ?4 ORDER BY wake_at LIMIT ?5
    )
    RETURNING ",
    columns!()
);

/// A claim.
pub(crate) struct ClaimDue {
    pub(super) max: u32,
    pub(super) claim: Claim,
}

impl Request for ClaimDue {
    type Answer = Vec<ClaimedDelivery>;

    const WHAT: &'static str = "claim deliveries";

    fn rows(&self) -> usize {
        self.max as usize
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Vec<ClaimedDelivery>>> {
        // Each claim takes what the one before left: one statement a claim.
        let mut answers = Vec::with_capacity(requests.len());
        for ClaimDue { max, claim } in requests {
            let found = sqlx::query(CLAIM)
                .bind(claim.owner.clone())
                .bind(claim.token.0.to_string())
                .bind(claim.until.as_millis())
                .bind(claim.at.as_millis())
                .bind(i64::from(*max))
                .fetch_all(&mut session.connection)
                .await?;
            let mut claimed = found
                .iter()
                .map(|row| {
                    let delivery = delivery(row)?;
                    let unknown = delivery.state == DeliveryState::Sending;
                    Ok(ClaimedDelivery { delivery, token: claim.token, unknown })
                })
                .collect::<Result<Vec<_>>>()
                .map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            claimed.sort_by_key(|claimed| (claimed.delivery.due_at, claimed.delivery.key));
            answers.push(claimed);
        }
        Ok(answers)
    }
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 1] = [CLAIM];
