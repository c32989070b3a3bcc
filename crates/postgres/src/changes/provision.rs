//! Publication and slot: made, looked at, and made anew. Only people call what is here; the watcher never does.
//!
//! The row that says that a slot was made is written before it (`made_at` is absent) and completed after it: whatever is cut
//! off, a slot that was once complete is never made anew in silence.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Row, postgres::PgConnection};
use tidings_domain::{Error, Result};

use super::{
    RecoveredSlot,
    failure::Failure,
    identity::{Facts, GapReason, Verdict, inspect, judge},
    lsn::Lsn,
    opening,
    plain::{self, Plain},
    transport::{Connector as _, Gate, Identity},
};
use crate::{
    fault::{self, Call},
    store::Shared,
};

/// How long a slot may take to be made: it waits for every transaction that is open.
const SLOT_LIMIT: Duration = Duration::from_secs(60);

const STATEMENT_LIMIT: Duration = Duration::from_secs(15);

const PUBLICATION: &str =
    "SELECT publication.oid::int8, publication.pubinsert AND NOT publication.puballtables,
        published.oid::int8, published.prqual IS NULL, current_setting('wal_level'),
        EXISTS (SELECT 1 FROM change_stream WHERE slot = $1 AND made_at IS NOT NULL)
    FROM (SELECT to_regclass(quote_ident(current_schema()) || '.items') AS items) AS here
    LEFT JOIN pg_publication AS publication ON publication.pubname = $1
    LEFT JOIN pg_publication_rel AS published
        ON published.prpubid = publication.oid AND published.prrelid = here.items";

const BEGIN: &str =
    "INSERT INTO change_stream (slot, system_id, timeline, publication, published_table, confirmed)
    VALUES ($1, '', 0, 0, 0, '0/0') ON CONFLICT (slot) DO NOTHING";

const COMPLETE: &str = "UPDATE change_stream SET made_at = now(), system_id = $2, timeline = $3,
        publication = $4::int8::oid, published_table = $5::int8::oid, holder = NULL,
        confirmed = confirmed_flush_lsn, within_commit = NULL, within_xid = NULL, within_ordinal = NULL,
        confirmed_stored_at = (SELECT max(stored_at) FROM items)
    FROM pg_replication_slots WHERE slot = $1 AND slot_name = $1
    RETURNING confirmed::text";

const CREATE_SLOT: &str = "SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput', false, false)";

/// From PostgreSQL 17 on a standby may keep a copy of the slot, so that a promotion is no gap.
const CREATE_FAILOVER_SLOT: &str =
    "SELECT 1 FROM pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)";

const DROP_SLOT: &str = "SELECT pg_drop_replication_slot($1)";

const VERSION: &str = "SELECT current_setting('server_version_num')::int";

/// Holds the name of slot and publication, which goes into statements as it is, to its rule.
pub(crate) fn checked(namespace: &str) -> Result<&str> {
    let rest = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match namespace.as_bytes() {
        [first, others @ ..]
            if first.is_ascii_lowercase() && others.len() < 20 && others.iter().all(|b| rest(*b)) =>
        {
            Ok(namespace)
        }
        _ => Err(Error::misconfigured(
            "the namespace is 1 to 20 characters: a lower-case letter, then lower-case letters or digits",
        )),
    }
}

/// Makes the publication where it is missing. Before the slot, always: changes from before it cannot be read.
pub(crate) async fn make_publication(shared: &Shared) -> Result<()> {
    let name = checked(&shared.options.namespace)?;
    let mut connection = connect(shared).await?;
    let found = publication(&mut connection, name).await?;
    if found.wal_level != "logical" {
        return Err(Error::misconfigured(format!(
            "make the publication {name}: the server's wal_level is {}: set it to logical and restart the server",
            found.wal_level
        )));
    }
    match found.number {
        Some(_) if found.has_slot || (found.table.is_some() && found.is_whole) => Ok(()),
        Some(_) => Err(Error::misconfigured(format!(
            "the publication {name} does not publish each new row of this schema's table items: drop it, or choose another \
             namespace"
        ))),
        // The slot is then looked at and says what is missing.
        None if found.has_slot => Ok(()),
        None => create_publication(&mut connection, name).await,
    }
}

/// Makes the slot where this installation never had one.
pub(crate) async fn make_slot(shared: &Shared) -> Result<()> {
    let slot = checked(&shared.options.namespace)?;
    let (mut gate, identity, facts) = look(shared).await?;
    let known = facts.known.as_ref();
    if known.is_some_and(|known| known.is_made) {
        return verdict(&mut *gate, slot, &identity, &facts).await?.into_result(slot);
    }
    if facts.is_standby {
        return Err(Error::unavailable(format!(
            "make the slot {slot}: the server is a standby, which only reads"
        )));
    }
    // One that stands before our row does is another's; one beside our unfinished row was made by a try that was cut off.
    if facts.slot.is_some() && (known.is_none() || !is_ours(&facts)) {
        return Err(Error::misconfigured(format!(
            "make the slot {slot}: there is one of this name that this installation has not made: choose another namespace, \
             or drop it: select pg_drop_replication_slot('{slot}')"
        )));
    }
    drop(gate);
    let mut connection = connect(shared).await?;
    begin(&mut connection, slot).await?;
    if facts.slot.is_none() {
        create_slot(&mut connection, slot).await?;
    }
    complete(&mut connection, slot, &identity).await.map(|_| ())
}

/// What is missing of publication and slot, by name.
pub(crate) async fn check(shared: &Shared) -> Result<Vec<String>> {
    let slot = checked(&shared.options.namespace)?;
    let (mut gate, identity, facts) = look(shared).await?;
    if facts.known.as_ref().is_none_or(|known| !known.is_made) {
        let missing = [(facts.publication.is_none(), "publication"), (true, "replication slot")];
        return Ok(missing.iter().filter(|(is, _)| *is).map(|(_, what)| format!("{what} {slot}")).collect());
    }
    Ok(match verdict(&mut *gate, slot, &identity, &facts).await? {
        Verdict::Good => Vec::new(),
        Verdict::Gap(reason) => vec![format!("replication slot {slot}: {reason}: run `tidings recover`")],
    })
}

/// Makes the slot anew after a gap; none where there is no gap. *Conflict*: somebody reads the slot.
pub(crate) async fn recover(shared: &Shared) -> Result<Option<RecoveredSlot>> {
    let slot = checked(&shared.options.namespace)?;
    let (mut gate, identity, facts) = look(shared).await?;
    let reason = match verdict(&mut *gate, slot, &identity, &facts).await? {
        Verdict::Gap(reason) => reason,
        Verdict::Good => return Ok(None),
    };
    drop(gate);
    if facts.slot.is_some() && !is_ours(&facts) {
        return Err(Error::misconfigured(format!(
            "recover the slot {slot}: {}: choose another namespace, or drop it where it belongs",
            GapReason::SlotForeign
        )));
    }
    if let Some(pid) = facts.slot.as_ref().and_then(|slot| slot.active_pid) {
        return Err(Error::conflict(format!(
            "recover the slot {slot}: {reason}, and the server's process {pid} still reads it: stop every cdc-watcher, then \
             recover again"
        )));
    }
    let mut connection = connect(shared).await?;
    // Cut off anywhere in between it is a gap as before: our row says so until the end.
    begin_again(&mut connection, slot, &facts).await?;
    create_slot(&mut connection, slot).await?;
    let begins_at = complete(&mut connection, slot, &identity).await?.to_string();
    tracing::warn!(slot, was = %reason, begins_at, "the slot was made anew");
    Ok(Some(RecoveredSlot { slot: slot.to_owned(), was: reason.to_string(), begins_at }))
}

/// Takes away what is left of the old slot, and of a publication that is not whole.
async fn begin_again(connection: &mut PgConnection, slot: &str, facts: &Facts) -> Result<()> {
    if facts.slot.is_some() {
        let dropped = sqlx::query(DROP_SLOT).bind(slot.to_owned()).execute(&mut *connection);
        plain::bounded(STATEMENT_LIMIT, dropped)
            .await
            .map_err(|error| fault::of(error, Call::Write, &format!("drop the old slot {slot}")))?;
    }
    let found = publication(connection, slot).await?;
    if found.number.is_some() && !(found.is_whole && found.table.is_some()) {
        run(connection, format!("DROP PUBLICATION {slot}"), "drop the old publication").await?;
    } else if found.number.is_some() {
        return Ok(());
    }
    create_publication(connection, slot).await
}

fn is_ours(facts: &Facts) -> bool {
    facts.slot.as_ref().is_some_and(|slot| {
        slot.plugin.as_deref() == Some("pgoutput") && slot.database.as_ref() == Some(&facts.database)
    })
}

/// Asks on a replication connection, which also shows that this user may open one.
async fn look(shared: &Shared) -> Result<(Box<dyn Gate>, Identity, Facts)> {
    let slot = checked(&shared.options.namespace)?;
    let doing = format!("look at the slot {slot}");
    let failed = |failure: Failure| failure.into_error(&doing);
    let mut gate = opening::connector(shared)?.connect().await.map_err(failed)?;
    let identity = gate.identify().await.map_err(failed)?;
    let facts = opening::facts(&mut *gate, &inspect(slot)).await.map_err(failed)?;
    Ok((gate, identity, facts))
}

async fn verdict(gate: &mut dyn Gate, slot: &str, identity: &Identity, facts: &Facts) -> Result<Verdict> {
    let history = opening::history(gate, identity).await;
    let history = history.map_err(|failure| failure.into_error(&format!("look at the slot {slot}")))?;
    judge(slot, identity, facts, opening::switched_at(facts, &history))
}

async fn connect(shared: &Shared) -> Result<PgConnection> {
    let connected = Plain::new(&shared.connect).connect().await;
    connected.map_err(|error| fault::of(error, Call::Connect, "connect to look after the slot"))
}

struct Found {
    number: Option<i64>,
    table: Option<i64>,
    is_whole: bool,
    wal_level: String,
    /// Whether this installation has made a slot for it.
    has_slot: bool,
}

async fn publication(connection: &mut PgConnection, name: &str) -> Result<Found> {
    let what = "look at the publication";
    let row = sqlx::query(PUBLICATION).bind(name.to_owned()).fetch_one(connection);
    let row =
        plain::bounded(STATEMENT_LIMIT, row).await.map_err(|error| fault::of(error, Call::Read, what))?;
    let yes = |column: usize| row.try_get::<Option<bool>, _>(column).ok().flatten().unwrap_or(false);
    Ok(Found {
        number: row.try_get(0).ok().flatten(),
        table: row.try_get(2).ok().flatten(),
        is_whole: yes(1) && yes(3),
        wal_level: fault::readable(row.try_get(4).ok(), "wal_level")?,
        has_slot: yes(5),
    })
}

async fn create_publication(connection: &mut PgConnection, name: &str) -> Result<()> {
    let statement = format!("CREATE PUBLICATION {name} FOR TABLE items WITH (publish = 'insert')");
    run(connection, statement, "make the publication").await
}

/// `statement` holds no name but a checked one.
async fn run(connection: &mut PgConnection, statement: String, what: &str) -> Result<()> {
    let running = sqlx::query(AssertSqlSafe(statement)).execute(connection);
    let done = plain::bounded(STATEMENT_LIMIT, running).await;
    done.map(|_| ()).map_err(|error| fault::of(error, Call::Write, what))
}

async fn begin(connection: &mut PgConnection, slot: &str) -> Result<()> {
    let begun = sqlx::query(BEGIN).bind(slot.to_owned()).execute(connection);
    let begun = plain::bounded(STATEMENT_LIMIT, begun).await;
    begun.map(|_| ()).map_err(|error| fault::of(error, Call::Write, "write that a slot is made"))
}

/// A step of its own: a transaction that has written can make no slot, and it waits for all that are open.
async fn create_slot(connection: &mut PgConnection, slot: &str) -> Result<()> {
    let what = format!("make the slot {slot}");
    let failed = |error| {
        match fault::sqlstate(&error).as_deref() {
        Some("53400") => Error::misconfigured(format!(
            "{what}: the server has none free: raise max_replication_slots and restart it"
        ))
        .with_source(error),
        None if is_late(&error) => Error::transient(format!(
            "{what}: transactions that were open before did not end in time: end them (pg_stat_activity), then try again"
        ))
        .with_source(error),
        _ => fault::of(error, Call::Write, &what),
    }
    };
    let version = sqlx::query_scalar::<_, i32>(VERSION).fetch_one(&mut *connection);
    let version = plain::bounded(STATEMENT_LIMIT, version).await.map_err(failed)?;
    let statement = if version >= 170_000 { CREATE_FAILOVER_SLOT } else { CREATE_SLOT };
    let created = sqlx::query(statement).bind(slot.to_owned()).execute(&mut *connection);
    plain::bounded(SLOT_LIMIT, created).await.map(|_| ()).map_err(failed)
}

fn is_late(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == std::io::ErrorKind::TimedOut)
}

async fn complete(connection: &mut PgConnection, slot: &str, identity: &Identity) -> Result<Lsn> {
    let what = "write that the slot is made";
    let found = publication(connection, slot).await?;
    let completed = sqlx::query_scalar::<_, String>(COMPLETE)
        .bind(slot.to_owned())
        .bind(identity.system_id.clone())
        .bind(i64::from(identity.timeline))
        .bind(found.number)
        .bind(found.table)
        .fetch_optional(connection);
    let completed = plain::bounded(STATEMENT_LIMIT, completed).await;
    let text = completed.map_err(|error| fault::of(error, Call::Write, what))?;
    let at = text.as_deref().and_then(Lsn::parse);
    at.ok_or_else(|| Error::transient(format!("{what}: it is gone again")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_before_they_enter_a_statement() {
        for good in ["a", "tidings", "t2", "abcdefghijklmnopqrst"] {
            assert_eq!(checked(good).unwrap(), good);
        }
        for bad in ["", "2t", "T", "a_b", "a-b", "a b", "a'b", "ä", "abcdefghijklmnopqrstu"] {
            assert!(checked(bad).is_err(), "{bad:?}");
        }
    }
}
