//! What the store knows of messages, in one query however many are asked for.

use std::collections::BTreeMap;

use sqlx::sqlite::SqliteRow;
use tidings_domain::{
    Result,
    id::MessageId,
    status::{DeliveryCounts, Timeline},
    time::Timestamp,
};

use crate::{fault::readable, rows, shared::Handle};

const TIMELINES: &str = "SELECT wanted.value, items.accepted_at, items.stored_at,
        (SELECT json_array(min(captured_at), min(published_at), min(finished))
            FROM notifications WHERE item = wanted.value),
        (SELECT json_array(
                count(*) FILTER (WHERE state = 'pending'), count(*) FILTER (WHERE state = 'sending'),
                count(*) FILTER (WHERE state = 'sent'), count(*) FILTER (WHERE state = 'suppressed'),
                count(*) FILTER (WHERE state = 'failed'), min(sent_at), max(sent_at)
            ) FROM deliveries WHERE about = wanted.value),
        (SELECT count(*) FROM dead_letters
            WHERE message_id = wanted.value AND (items.id IS NULL OR source <> 'items'))
    FROM json_each(?1) AS wanted LEFT JOIN items ON items.id = wanted.value";

/// The timelines of `ids`, in order.
pub(super) async fn read(handle: &Handle, ids: &[MessageId]) -> Result<Vec<Timeline>> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = rows::ids(ids.iter().map(|id| id.0));
    let read = sqlx::query(TIMELINES).bind(wanted).fetch_all(&handle.readers).await;
    let found: BTreeMap<_, _> = handle
        .read(read, "read timelines")?
        .iter()
        .map(|row| timeline(row).map(|timeline| (timeline.id, timeline)))
        .collect::<Result<_>>()?;
    Ok(ids.iter().map(|id| found.get(id).cloned().unwrap_or_else(|| Timeline::unknown(*id))).collect())
}

fn timeline(row: &SqliteRow) -> Result<Timeline> {
    let text_time = |column| rows::text(row, column).and_then(Timestamp::parse);
    let list = |column| -> Result<Vec<Option<i64>>> {
        readable(serde_json::from_value(rows::json(row, column, "counts")?).ok(), "counts")
    };
    let (notification, deliveries) = (list(3)?, list(4)?);
    let number = |list: &[Option<i64>], at: usize| list.get(at).copied().flatten();
    let time = |list: &[Option<i64>], at: usize| number(list, at).map(Timestamp::from_millis);
    let count = |at| number(&deliveries, at).and_then(|count| u64::try_from(count).ok()).unwrap_or_default();
    Ok(Timeline {
        id: MessageId(rows::id(row, 0, "id")?),
        accepted_at: text_time(1),
        stored_at: text_time(2),
        captured_at: time(&notification, 0),
        published_at: time(&notification, 1),
        expanded: number(&notification, 2) == Some(1),
        first_mail_at: time(&deliveries, 5),
        last_mail_at: time(&deliveries, 6),
        deliveries: DeliveryCounts {
            pending: count(0),
            sending: count(1),
            sent: count(2),
            suppressed: count(3),
            failed: count(4),
        },
        dead_letters: rows::number(row, 5, "count")?,
    })
}

/// This file's statements.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 1] = [TIMELINES];
