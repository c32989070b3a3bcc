//! What the store knows of messages, in one query however many are asked for.

use std::collections::BTreeMap;

use sqlx::postgres::PgRow;
use tidings_domain::{
    Result,
    id::MessageId,
    status::{DeliveryCounts, Timeline},
};
use uuid::Uuid;

use crate::{rows, shared::Shared};

const TIMELINES: &str = "SELECT wanted.id, items.accepted_at, items.stored_at,
        n.captured_at, n.published_at, coalesce(n.finished, false),
        d.pending, d.sending, d.sent, d.suppressed, d.failed, d.first_at, d.last_at,
        (SELECT count(*) FROM dead_letters
            WHERE message_id = wanted.id AND (items.id IS NULL OR source <> 'items'))
    FROM unnest($1::uuid[]) AS wanted (id)
    LEFT JOIN items ON items.id = wanted.id
    CROSS JOIN LATERAL (
        SELECT min(captured_at) AS captured_at, min(published_at) AS published_at, bool_and(finished) AS finished
        FROM notifications WHERE item = wanted.id
    ) AS n
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE state = 'pending') AS pending,
            count(*) FILTER (WHERE state = 'sending') AS sending,
            count(*) FILTER (WHERE state = 'sent') AS sent,
            count(*) FILTER (WHERE state = 'suppressed') AS suppressed,
            count(*) FILTER (WHERE state = 'failed') AS failed,
            min(sent_at) AS first_at, max(sent_at) AS last_at
        FROM deliveries WHERE about = wanted.id
    ) AS d";

/// The timelines of `ids`, in order.
pub(super) async fn read(shared: &Shared, ids: &[MessageId]) -> Result<Vec<Timeline>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let wanted: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    let found = shared.read("read timelines", sqlx::query(TIMELINES).bind(wanted)).await?;
    let found: BTreeMap<_, _> = found
        .iter()
        .map(|row| timeline(row).map(|timeline| (timeline.id, timeline)))
        .collect::<Result<_>>()?;
    Ok(ids.iter().map(|id| found.get(id).cloned().unwrap_or_else(|| Timeline::unknown(*id))).collect())
}

fn timeline(row: &PgRow) -> Result<Timeline> {
    let time = |column| rows::optional_time(row, column);
    let count = |column| rows::count(row, column, "count");
    Ok(Timeline {
        id: MessageId(rows::id(row, 0, "id")?),
        accepted_at: time(1),
        stored_at: time(2),
        captured_at: time(3),
        published_at: time(4),
        expanded: rows::flag(row, 5, "mark")?,
        first_mail_at: time(11),
        last_mail_at: time(12),
        deliveries: DeliveryCounts {
            pending: count(6)?,
            sending: count(7)?,
            sent: count(8)?,
            suppressed: count(9)?,
            failed: count(10)?,
        },
        dead_letters: count(13)?,
    })
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 1] = [TIMELINES];
