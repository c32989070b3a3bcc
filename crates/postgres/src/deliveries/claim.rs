//! Claiming what is due.

use tidings_domain::{
    Result,
    delivery::{Claim, ClaimedDelivery, DeliveryState},
};

use super::{columns, whole};
use crate::{rows::Time, shared::Shared};

/// What nobody holds comes in the order of its index up to what is due; what is held is as much as mailers hold. Neither reads
/// a row that is closed. A `sending` row whose lease ran out is unknown: it stays `sending`, so that nobody takes it for
/// untried, and its attempt is counted once however often it is claimed before it is tried again.
const CLAIM: &str = concat!(
    "WITH waiting AS MATERIALIZED (
        SELECT about, subscription, round, due_at FROM deliveries WHERE waiting AND due_at <= $4
        ORDER BY due_at LIMIT $5 FOR UPDATE SKIP LOCKED
    ), expired AS MATERIALIZED (
        SELECT about, subscription, round, due_at FROM deliveries
        WHERE leased AND lease_until <= $4 AND (state = 'sending' OR due_at <= $4)
        ORDER BY due_at LIMIT $5 FOR UPDATE SKIP LOCKED
    ), due AS MATERIALIZED (
        SELECT * FROM waiting UNION ALL SELECT * FROM expired ORDER BY due_at, about, subscription, round LIMIT $5
    )
    UPDATE deliveries AS d SET lease_owner = $1, lease_token = $2, lease_until = $3,
        attempts = d.attempts + (d.state = 'sending' AND NOT d.counted)::integer,
        unknowns = d.unknowns + (d.state = 'sending' AND NOT d.counted)::integer,
        counted = (d.state = 'sending')
    FROM due WHERE d.about = due.about AND d.subscription = due.subscription AND d.round = due.round
    RETURNING ",
    columns!()
);

/// Leases what is due. A row that cannot be read is leased with the others and passed over: it keeps none of them back.
pub(super) async fn due(shared: &Shared, max: u32, claim: &Claim) -> Result<Vec<ClaimedDelivery>> {
    let statement = || {
        sqlx::query(CLAIM)
            .bind(claim.owner.clone())
            .bind(claim.token.0)
            .bind(Time(claim.until))
            .bind(Time(claim.at))
            .bind(i64::from(max))
    };
    let found = shared.write("claim deliveries", statement).await?;
    let claimed = found.iter().filter_map(|row| whole(shared, row)).map(|delivery| {
        let unknown = delivery.state == DeliveryState::Sending;
        ClaimedDelivery { delivery, token: claim.token, unknown }
    });
    let mut claimed: Vec<_> = claimed.collect();
    claimed.sort_by_key(|claimed| (claimed.delivery.due_at, claimed.delivery.key));
    Ok(claimed)
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 1] = [CLAIM];
