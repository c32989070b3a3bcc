//! One step of retention: an item goes together with all that is about it, in one transaction.

use sqlx::Row as _;
use tidings_domain::{Result, ports::Expired, time::Timestamp};
use uuid::Uuid;

use crate::{fault, pool::Session, rows::Time, shared::Shared};

/// Whether an item was expanded in every round and nothing of it is open. One whose change is a dead letter has no round.
macro_rules! finished {
    () => {
        "coalesce(
            (SELECT bool_and(finished) FROM notifications WHERE item = items.id),
            EXISTS (SELECT 1 FROM dead_letters WHERE message_id = items.id AND source = 'changes')
        )
        AND NOT EXISTS (SELECT 1 FROM deliveries WHERE about = items.id AND (waiting OR leased))
        AND NOT EXISTS (SELECT 1 FROM dead_letters WHERE message_id = items.id AND marked_at IS NOT NULL)"
    };
}

/// Rows that one step removes, about, however many items that is; one item goes whole.
const MAX_ROWS: i64 = 10_000;

/// Whoever holds it until its transaction ends is the elected worker. One of each schema.
const ELECT: &str =
    "SELECT pg_try_advisory_xact_lock(hashtextextended('tidings retention ' || current_schema(), 0))";

/// The ids that go, up to when the table was looked through, and how many were found.
const FIND: &str = concat!(
    "WITH found (id, stored_at, rows) AS MATERIALIZED (
        SELECT id, stored_at, (SELECT 1 + coalesce(sum(planned), 0) FROM notifications WHERE item = items.id)
        FROM items WHERE stored_at < $1 AND ",
    finished!(),
    " ORDER BY stored_at, id LIMIT $2
    ), counted (id, stored_at, before) AS (
        SELECT id, stored_at, sum(rows) OVER (ORDER BY stored_at, id) - rows FROM found
    )
    SELECT coalesce(array_agg(id ORDER BY id), '{}'), max(stored_at), (SELECT count(*) FROM found)
    FROM counted WHERE before < $3"
);

const OPEN: &str = concat!("SELECT count(*) FROM items WHERE stored_at < $1 AND NOT (", finished!(), ")");

/// Whoever plans a round again writes its notification first, and whoever begins a delivery or a change anew has marked its
/// letter: until the step ends they wait.
const LOCK: [&str; 2] = [
    "SELECT 1 FROM notifications WHERE item = ANY ($1) ORDER BY item, round FOR UPDATE",
    "SELECT 1 FROM dead_letters WHERE message_id = ANY ($1) ORDER BY id FOR UPDATE",
];

/// Of these ids what is still finished, with all of it, by one look: a round that is planned after it is not seen by any part
/// of the statement and stays whole.
const REMOVE: &str = concat!(
    "WITH gone AS MATERIALIZED (
        SELECT id FROM items WHERE id = ANY ($1) AND ",
    finished!(),
    "), deliveries_gone AS (
        DELETE FROM deliveries USING gone WHERE about = gone.id
    ), notifications_gone AS (
        DELETE FROM notifications USING gone WHERE item = gone.id
    ), letters_gone AS (
        DELETE FROM dead_letters USING gone WHERE message_id = gone.id
    )
    DELETE FROM items USING gone WHERE items.id = gone.id"
);

/// Closed confirmations, by their own age.
const REMOVE_CONFIRMATIONS: &str = "WITH old AS MATERIALIZED (
        SELECT about, subscription, round FROM deliveries
        WHERE kind = 'confirmation' AND created_at < $1 AND NOT waiting AND NOT leased
        ORDER BY created_at LIMIT $2
    )
    DELETE FROM deliveries USING old WHERE deliveries.about = old.about
        AND deliveries.subscription = old.subscription AND deliveries.round = old.round";

/// Dead letters that are about no item, by their own age.
const REMOVE_LETTERS: &str = "DELETE FROM dead_letters WHERE id = ANY (ARRAY(
        SELECT id FROM dead_letters AS letter
        WHERE created_at < $1 AND marked_at IS NULL
            AND (message_id IS NULL OR NOT EXISTS (SELECT 1 FROM items WHERE items.id = letter.message_id))
        ORDER BY created_at, id LIMIT $2
    ))";

/// A step, in a transaction of its own.
pub(crate) async fn expire(shared: &Shared, before: Timestamp, max: u32) -> Result<Expired> {
    let what = "remove what is past retention";
    let mut session = shared.session(what).await?;
    let expired = step(&mut session, before, max).await;
    let call = session.call();
    session.give_back(expired.as_ref().err());
    shared.note(expired.map_err(|error| fault::of(error, call, what)))
}

async fn step(session: &mut Session, before: Timestamp, max: u32) -> sqlx::Result<Expired> {
    let max = i64::from(max);
    session.begin().await?;
    let elected = session.rows(sqlx::query(ELECT)).await?;
    if !elected.first().map_or(Ok(false), |row| row.try_get(0))? {
        session.roll_back().await?;
        return Ok(Expired { standing_by: true, ..Expired::default() });
    }
    let found = session.rows(sqlx::query(FIND).bind(Time(before)).bind(max).bind(MAX_ROWS)).await?;
    let row = found.first().ok_or(sqlx::Error::RowNotFound)?;
    let (ids, looked, found): (Vec<Uuid>, Option<Time>, i64) =
        (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    let full = found >= max || i64::try_from(ids.len()).unwrap_or(i64::MAX) < found;
    let mut removed = 0;
    if !ids.is_empty() {
        for statement in LOCK {
            session.rows(sqlx::query(statement).bind(ids.clone())).await?;
        }
        removed = session.execute(sqlx::query(REMOVE).bind(ids)).await?;
    }
    let mut more = full;
    for statement in [REMOVE_CONFIRMATIONS, REMOVE_LETTERS] {
        let gone = session.execute(sqlx::query(statement).bind(Time(before)).bind(max)).await?;
        more |= i64::try_from(gone).unwrap_or(i64::MAX) >= max;
    }
    // While more is to go, only what was passed over in this step is counted: the last step counts all.
    let counted = looked.filter(|_| full).unwrap_or(Time(before));
    let open = session.rows(sqlx::query(OPEN).bind(counted)).await?;
    let open: i64 = open.first().ok_or(sqlx::Error::RowNotFound)?.try_get(0)?;
    session.commit().await?;
    Ok(Expired {
        removed,
        open: u64::try_from(open).unwrap_or_default(),
        more: more && max > 0,
        standing_by: false,
    })
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&[&str]; 2] =
    [&[ELECT, FIND, OPEN, REMOVE, REMOVE_CONFIRMATIONS, REMOVE_LETTERS], &LOCK];
