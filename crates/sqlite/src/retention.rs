//! One step of retention: an item goes together with all that is about it, in one transaction.

use tidings_domain::{ports::Expired, time::Timestamp};

use crate::group::{Request, Session};

/// Whether an item was expanded in every round and nothing of it is open. One whose change is a dead letter has no round.
macro_rules! finished {
    () => {
        "ifnull(
            (SELECT min(finished) FROM notifications WHERE item = items.id),
            EXISTS (SELECT 1 FROM dead_letters WHERE message_id = items.id AND source = 'changes')
        ) = 1
        AND NOT EXISTS (SELECT 1 FROM deliveries WHERE about = items.id AND wake_at IS NOT NULL)
        AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE message_id = items.id AND marked_at IS NOT NULL)"
    };
}

/// Rows that one step removes, about, however many items that is; one item goes whole. Everything else that is to be written
/// waits for the step.
const MAX_ROWS: i64 = 10_000;

/// The ids that go, up to when the table was looked through, and how many were found.
const FIND: &str = concat!(
    "WITH found (id, stored_at, rows) AS (
        SELECT id, stored_at, (SELECT 1 + ifnull(sum(planned), 0) FROM notifications WHERE item = items.id)
        FROM items WHERE stored_at < ?1 AND ",
    finished!(),
    " ORDER BY stored_at, id LIMIT ?2
    ), counted (id, stored_at, before) AS (
        SELECT id, stored_at, sum(rows) OVER (ORDER BY stored_at, id) - rows FROM found
    )
    SELECT json_group_array(id ORDER BY id), count(*), max(stored_at), (SELECT count(*) FROM found)
    FROM counted WHERE before < ?3"
);

const OPEN: &str = concat!("SELECT count(*) FROM items WHERE stored_at < ?1 AND NOT (", finished!(), ")");

/// All of an item; the item last.
const REMOVE: [&str; 4] = [
    "DELETE FROM deliveries WHERE about IN (SELECT value FROM json_each(?1))",
    "DELETE FROM notifications WHERE item IN (SELECT value FROM json_each(?1))",
    "DELETE FROM dead_letters WHERE message_id IN (SELECT value FROM json_each(?1))",
    "DELETE FROM items WHERE id IN (SELECT value FROM json_each(?1))",
];

/// Closed confirmations, by their own age.
const REMOVE_CONFIRMATIONS: &str = "DELETE FROM deliveries WHERE (about, subscription, round) IN (
        SELECT about, subscription, round FROM deliveries
        WHERE kind = 'confirmation' AND created_at < ?1 AND wake_at IS NULL LIMIT ?2
    )";

/// Dead letters that are about no item, by their own age.
const REMOVE_LETTERS: &str = "DELETE FROM dead_letters WHERE id IN (
        SELECT id FROM dead_letters AS letter
        WHERE created_at < ?1 AND marked_at IS NULL
            AND (message_id IS NULL OR NOT EXISTS (SELECT 1 FROM items WHERE items.id = letter.message_id))
        LIMIT ?2
    )";

/// A step.
pub(crate) struct Expire {
    pub(crate) before: Timestamp,
    pub(crate) max: u32,
}

impl Request for Expire {
    type Answer = Expired;

    const WHAT: &'static str = "remove what is past retention";

    fn rows(&self) -> usize {
        self.max as usize
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<Expired>> {
        // There is one worker: a group holds one step.
        let mut answers = Vec::with_capacity(requests.len());
        for Expire { before, max } in requests {
            let connection = &mut session.connection;
            let (text, millis, max) = (before.to_string(), before.as_millis(), i64::from(*max));
            let (ids, removed, looked, found): (String, i64, Option<String>, i64) = sqlx::query_as(FIND)
                .bind(text.clone())
                .bind(max)
                .bind(MAX_ROWS)
                .fetch_one(&mut *connection)
                .await?;
            let full = found >= max || removed < found;
            if removed > 0 {
                for statement in REMOVE {
                    sqlx::query(statement).bind(ids.clone()).execute(&mut *connection).await?;
                }
            }
            let mut more = full;
            for statement in [REMOVE_CONFIRMATIONS, REMOVE_LETTERS] {
                let gone = sqlx::query(statement).bind(millis).bind(max).execute(&mut *connection).await?;
                more |= i64::try_from(gone.rows_affected()).unwrap_or(i64::MAX) >= max;
            }
            // While more is to go, only what was passed over in this step is counted: the last step counts all.
            let counted = looked.filter(|_| full).unwrap_or(text);
            let open: i64 = sqlx::query_scalar(OPEN).bind(counted).fetch_one(&mut *connection).await?;
            answers.push(Expired {
                removed: u64::try_from(removed).unwrap_or_default(),
                open: u64::try_from(open).unwrap_or_default(),
                more: more && max > 0,
                standing_by: false,
            });
        }
        Ok(answers)
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&[&str]; 2] = [&[FIND, OPEN, REMOVE_CONFIRMATIONS, REMOVE_LETTERS], &REMOVE];
