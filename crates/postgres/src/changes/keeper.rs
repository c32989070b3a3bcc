//! The task with the plain connection beside the stream: it records what is confirmed, writes heartbeats, sees that the
//! slot is still ours and that the server hears us, and measures.
//!
//! Every record and heartbeat is a write under the holder's token: whoever opened the slot after us has put another one
//! there, and then nothing is changed and our stream is over.

use std::{sync::Arc, time::Duration};

use sqlx::{
    Connection, Row,
    postgres::{PgConnection, PgRow},
};
use tidings_domain::{
    Error, Result,
    backoff::Backoff,
    ports::{DependencyState, Entropy},
};
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use super::{
    failure::{Class, classify},
    gauges::{Gauges, Sample},
    identity::{GapReason, Publication},
    ledger::{Progress, Within},
    line::{Line, Want},
    lsn::Lsn,
    plain::{self, Plain},
    state::StreamHealth,
};
use crate::{
    fault::{self, Call},
    pool::Statement,
    rows::Time,
};

/// How long a statement may take.
const STATEMENT_LIMIT: Duration = Duration::from_secs(5);

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(2) };

/// On another timeline what was confirmed counts as far as both have it in common: up to where the old one ended.
const CLAIM: &str = "UPDATE change_stream SET holder = $2, timeline = $3,
        confirmed = CASE WHEN timeline = $3 THEN confirmed
            ELSE greatest($4::pg_lsn, least(confirmed, coalesce($6::pg_lsn, $4::pg_lsn))) END,
        within_commit = CASE WHEN timeline = $3 OR within_commit < $6::pg_lsn THEN within_commit END,
        within_xid = CASE WHEN timeline = $3 OR within_commit < $6::pg_lsn THEN within_xid END,
        within_ordinal = CASE WHEN timeline = $3 OR within_commit < $6::pg_lsn THEN within_ordinal END
    WHERE slot = $1 AND made_at IS NOT NULL AND system_id = $5
    RETURNING confirmed::text, within_commit::text, within_xid, within_ordinal, confirmed_stored_at";

/// The server reads over what the publication leaves out and says nothing of it. So it is looked at in the statement that
/// records, and where it is not what the slot was made for, nothing is recorded past it, and our row says for good that it
/// was not, whoever puts it back. What comes first in the answer: see [`Keeper::recorded`].
macro_rules! under_token {
    ($returning:literal, $measured:literal) => {
        concat!(
            "WITH looked AS (
                SELECT publication.oid::int8 AS number, publication.pubinsert AS inserts, published.oid::int8 AS item_table,
                    published.prqual IS NULL AS is_unfiltered, known.publication::int8 AS known_number,
                    known.published_table::int8 AS known_table,
                    coalesce(publication.oid = known.publication AND published.oid = known.published_table
                        AND publication.pubinsert AND published.prqual IS NULL, false) AS is_whole
                FROM change_stream AS known
                LEFT JOIN pg_publication AS publication ON publication.pubname = known.slot
                LEFT JOIN pg_publication_rel AS published ON published.prpubid = publication.oid
                    AND published.prrelid = to_regclass(quote_ident(current_schema()) || '.items')
                WHERE known.slot = $1
            ), held AS (
                UPDATE change_stream SET confirmed = $3::pg_lsn, within_commit = $4::pg_lsn, within_xid = $5,
                    within_ordinal = $6, confirmed_stored_at = $7
                WHERE slot = $1 AND holder = $2 AND (SELECT is_whole FROM looked)
                RETURNING ",
            $returning,
            "), narrowed AS (
                UPDATE change_stream SET published_table = 0
                WHERE slot = $1 AND holder = $2 AND NOT (SELECT is_whole FROM looked)
            )
            SELECT (SELECT count(*) FROM held), number, inserts, item_table, is_unfiltered, known_number, known_table",
            $measured
        )
    };
}

const RECORD: &str = under_token!("1", " FROM looked");

/// The message is written only where the slot is ours. It is sent once it is on disk, which the update's commit sees to.
const BEAT: &str = under_token!(
    "pg_logical_emit_message(false, $8, $9)",
    ", (SELECT extract(epoch FROM reply_time)::float8 FROM pg_stat_replication WHERE pid = $10),
        pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint,
        pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint,
        safe_wal_size, wal_status
    FROM looked LEFT JOIN pg_replication_slots ON slot_name = $1"
);

const DANGER: &str = "the slot is about to be invalidated: the server may remove log that it needs \
                      (max_slot_wal_keep_size)";

/// What heartbeats of this slot are named by.
pub(crate) fn heartbeat_prefix(slot: &str) -> String {
    format!("{slot}-heartbeat")
}

/// Who reads the slot, by what.
pub(crate) struct Holder {
    pub(crate) slot: String,
    pub(crate) token: Uuid,
    /// The server's process at the other end of the stream.
    pub(crate) walsender: i32,
}

/// Keeps one open stream.
pub(crate) struct Keeper {
    pub(crate) line: Arc<Line>,
    pub(crate) plain: Plain,
    pub(crate) connection: Option<PgConnection>,
    pub(crate) holder: Holder,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) health: Arc<StreamHealth>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) heartbeat_interval: Duration,
    /// What the server threatens the slot with.
    pub(crate) danger: Option<&'static str>,
}

/// The server, as it is while a stream is open.
pub(crate) struct Place<'a> {
    pub(crate) system_id: &'a str,
    pub(crate) timeline: u32,
    /// Where the timeline ended that our row knows, if it is another.
    pub(crate) switched_at: Option<Lsn>,
    /// The slot's own position.
    pub(crate) slot: Lsn,
}

/// Puts our token into the row, and reads there what is confirmed.
pub(crate) async fn claim(
    connection: &mut PgConnection,
    holder: &Holder,
    place: Place<'_>,
) -> Result<Progress> {
    let what = "claim the slot";
    let claim = sqlx::query(CLAIM)
        .bind(holder.slot.clone())
        .bind(holder.token)
        .bind(i64::from(place.timeline))
        .bind(place.slot.to_string())
        .bind(place.system_id.to_owned())
        .bind(place.switched_at.map(|lsn| lsn.to_string()))
        .fetch_optional(connection);
    let row = plain::bounded(STATEMENT_LIMIT, claim).await;
    let row = row.map_err(|error| fault::of(error, Call::Read, what))?;
    row.as_ref()
        .and_then(progress)
        .ok_or_else(|| Error::unavailable(format!("{what}: its row has changed meanwhile")))
}

fn progress(row: &PgRow) -> Option<Progress> {
    let lsn = |column: usize| {
        let text = row.try_get::<Option<String>, _>(column).ok()?;
        Some(text.as_deref().and_then(Lsn::parse))
    };
    let number = |column: usize| row.try_get::<Option<i64>, _>(column).ok();
    let within = match (lsn(1)?, number(2)?, number(3)?) {
        (Some(commit), Some(xid), Some(ordinal)) => {
            Some(Within { commit, xid: u32::try_from(xid).ok()?, ordinal: u64::try_from(ordinal).ok()? })
        }
        _ => None,
    };
    let stored_at = row.try_get::<Option<Time>, _>(4).ok()?.map(|time| time.0);
    Some(Progress { confirmed: lsn(0)??, within, stored_at })
}

/// How one call went.
#[derive(Clone, Copy)]
enum Outcome {
    Done,
    /// Nothing is known of it, or nothing came of it: it may be made again.
    Failed,
}

impl Keeper {
    /// Keeps the stream until it is dropped or over.
    pub(crate) async fn run(mut self) {
        let line = Arc::clone(&self.line);
        let mut beat_at = Instant::now();
        let mut last_echo = None;
        let mut failures = 0_u32;
        while !line.over.is_cancelled() {
            let want = line.want();
            let outcome = tokio::select! {
                biased;
                () = line.over.cancelled() => break,
                () = line.closing.cancelled() => {
                    self.record().await;
                    break;
                }
                () = due(want, failures) => self.record().await,
                () = line.wanted.notified() => continue,
                () = sleep_until(beat_at) => {
                    beat_at = Instant::now() + self.heartbeat_interval;
                    self.beat(&mut last_echo).await
                }
            };
            match outcome {
                Outcome::Done => failures = 0,
                Outcome::Failed => {
                    failures = failures.saturating_add(1);
                    let again = Instant::now() + BACKOFF.wait(failures, &*self.entropy);
                    line.has_not_recorded(again);
                    beat_at = beat_at.min(again);
                }
            }
        }
        if let Some(connection) = self.connection.take() {
            let _closed_or_late = timeout(Duration::from_millis(200), connection.close()).await;
        }
    }

    /// Records what is confirmed.
    async fn record(&mut self) -> Outcome {
        let (progress, version) = self.line.to_record();
        let record = self.under_token(RECORD, progress);
        match self.call(record).await {
            Some(row) => self.recorded(row.as_ref(), progress, version),
            None => Outcome::Failed,
        }
    }

    /// Records, writes a heartbeat, looks whether the server has heard from us since the last time, and measures.
    async fn beat(&mut self, last_echo: &mut Option<f64>) -> Outcome {
        let (progress, version) = self.line.to_record();
        let (number, content) = self.gauges.beat();
        let beat = self
            .under_token(BEAT, progress)
            .bind(heartbeat_prefix(&self.holder.slot))
            .bind(content)
            .bind(self.holder.walsender);
        let Some(row) = self.call(beat).await else {
            self.gauges.missed(number);
            return Outcome::Failed;
        };
        if let Some(row) = &row {
            self.measured(row, last_echo);
        }
        self.recorded(row.as_ref(), progress, version)
    }

    /// What a heartbeat's answer says of the slot and of our connection.
    fn measured(&mut self, row: &PgRow, last_echo: &mut Option<f64>) {
        // Below nothing there is nothing: what is safe is negative once the limit is passed.
        let bytes =
            |column: usize| integer(row, column).map(|value| u64::try_from(value).unwrap_or_default());
        let status = row.try_get::<Option<String>, _>(11).ok().flatten();
        self.danger = (status.as_deref() == Some("unreserved")).then_some(DANGER);
        self.gauges.sample(&Sample {
            lag_bytes: bytes(8),
            retained_bytes: bytes(9),
            safe_bytes: bytes(10),
            status,
        });
        // Our own clock, as we reported it: another value is a report that arrived since.
        let echo = row.try_get::<Option<f64>, _>(7).ok().flatten();
        if echo.is_some() && echo != *last_echo {
            self.line.is_alive();
            *last_echo = echo;
        }
    }

    fn under_token(&self, statement: &'static str, progress: Progress) -> Statement {
        let within = progress.within;
        sqlx::query(statement)
            .bind(self.holder.slot.clone())
            .bind(self.holder.token)
            .bind(progress.confirmed.to_string())
            .bind(within.map(|within| within.commit.to_string()))
            .bind(within.map(|within| i64::from(within.xid)))
            .bind(within.map(|within| i64::try_from(within.ordinal).unwrap_or(i64::MAX)))
            .bind(progress.stored_at.map(Time))
    }

    /// What the answer to a record says: how many rows were written, and of the publication: its number, whether it has
    /// inserts, its entry for the table, whether that has no filter, and the two numbers that it should have.
    fn recorded(&self, row: Option<&PgRow>, progress: Progress, version: u64) -> Outcome {
        if row.and_then(|row| integer(row, 0)) == Some(1) {
            self.line.has_recorded(progress, version);
            return Outcome::Done;
        }
        let slot = &self.holder.slot;
        self.line.end(match row.and_then(gap) {
            Some(reason) => Error::gap(format!("read the table stream from slot {slot}: {reason}")),
            None => Error::lease_lost("record the stream's position: another reads the slot now"),
        });
        Outcome::Done
    }

    /// One statement on the connection, which is made where there is none. None where it failed.
    async fn call(&mut self, statement: Statement) -> Option<Option<PgRow>> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match self.plain.connect().await {
                Ok(connection) => connection,
                Err(error) => {
                    self.failed(error, Call::Connect);
                    return None;
                }
            },
        };
        match plain::bounded(STATEMENT_LIMIT, statement.fetch_optional(&mut connection)).await {
            Ok(row) => {
                self.connection = Some(connection);
                if !self.line.over.is_cancelled() {
                    let danger = self.danger.map(|danger| DependencyState::Degraded(danger.to_owned()));
                    self.health.set(danger.unwrap_or(DependencyState::Up));
                }
                Some(row)
            }
            Err(error) => {
                self.failed(error, Call::Write);
                None
            }
        }
    }

    fn failed(&self, error: sqlx::Error, call: Call) {
        let refuses = fault::sqlstate(&error).is_some_and(|code| classify(&code) == Class::Stopping);
        let error = fault::of(error, call, "record the stream's position");
        if refuses && call == Call::Connect {
            // It waits until our stream has ended.
            self.line
                .end(Error::unavailable("read the table stream: the server is stopping").with_source(error));
        } else if !self.line.over.is_cancelled() {
            self.health.set(DependencyState::Degraded(error.chain()));
        }
    }
}

fn integer(row: &PgRow, column: usize) -> Option<i64> {
    row.try_get::<Option<i64>, _>(column).ok().flatten()
}

/// What is wrong with the publication.
fn gap(row: &PgRow) -> Option<GapReason> {
    let number = |column: usize| integer(row, column).and_then(|number| u32::try_from(number).ok());
    let is = |column: usize| row.try_get::<Option<bool>, _>(column).ok().flatten() == Some(true);
    let there = number(1).map(|found| Publication {
        number: found,
        publishes_inserts: is(2),
        table: number(3),
        has_no_filter: is(4),
    });
    Publication::gap(there, number(5)?, number(6)?)
}

/// Waits until something is to be recorded; after failures not before the time that they set.
async fn due(want: Want, failures: u32) {
    match want {
        Want::Now if failures == 0 => {}
        Want::Now => tokio::time::sleep(BACKOFF.first).await,
        Want::Later(when) => sleep_until(when).await,
        Want::Nothing => std::future::pending().await,
    }
}
