//! Whether the slot is the one that this installation made, and nothing is missing in it: asked on every connection, before
//! the stream begins.

use tidings_domain::{Error, ErrorKind, Result};

use super::{
    gauges::Sample,
    lsn::Lsn,
    transport::{Identity, TextRow},
};

/// One statement, so that it is one round trip on the session that will stream. `{slot}` is a checked name.
const INSPECT: &str = "SELECT pg_is_in_recovery(), current_database(), current_schema(), pg_backend_pid(),
    here.items::oid, known.made_at IS NOT NULL, known.system_id, known.timeline, known.publication,
    known.published_table, known.confirmed,
    slot.plugin, slot.database, slot.active_pid, slot.wal_status, slot.confirmed_flush_lsn,
    publication.oid, publication.pubinsert, published.oid, published.prqual IS NULL,
    pg_wal_lsn_diff(here.written, slot.confirmed_flush_lsn)::bigint,
    pg_wal_lsn_diff(here.written, slot.restart_lsn)::bigint, slot.safe_wal_size
FROM (
    SELECT to_regclass(quote_ident(current_schema()) || '.items') AS items,
        CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS written
) AS here
LEFT JOIN change_stream AS known ON known.slot = '{slot}'
LEFT JOIN pg_replication_slots AS slot ON slot.slot_name = '{slot}'
LEFT JOIN pg_publication AS publication ON publication.pubname = '{slot}'
LEFT JOIN pg_publication_rel AS published
    ON published.prpubid = publication.oid AND published.prrelid = here.items";

/// The statement for the slot of this name, which is also the publication's.
pub(crate) fn inspect(slot: &str) -> String {
    INSPECT.replace("{slot}", slot)
}

/// What the server answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) is_standby: bool,
    pub(crate) database: String,
    pub(crate) schema: Option<String>,
    /// The process of the session that was asked.
    pub(crate) pid: i32,
    /// The number of the table `items`.
    pub(crate) items: Option<u32>,
    pub(crate) known: Option<Known>,
    pub(crate) slot: Option<Slot>,
    pub(crate) publication: Option<Publication>,
    pub(crate) sample: Sample,
}

/// Our own row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) is_made: bool,
    pub(crate) system_id: String,
    pub(crate) timeline: u32,
    pub(crate) publication: u32,
    pub(crate) published_table: u32,
    pub(crate) confirmed: Lsn,
}

/// The server's slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) plugin: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) active_pid: Option<i32>,
    pub(crate) wal_status: Option<String>,
    pub(crate) confirmed: Option<Lsn>,
}

/// The publication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) number: u32,
    pub(crate) publishes_inserts: bool,
    /// The table's place in it.
    pub(crate) table: Option<u32>,
    pub(crate) has_no_filter: bool,
}

impl Publication {
    /// What is wrong with the one that is there, where the slot was made for the one of these numbers.
    pub(crate) fn gap(there: Option<Self>, number: u32, table: u32) -> Option<GapReason> {
        let Some(there) = there else { return Some(GapReason::PublicationMissing) };
        if !there.publishes_inserts || (there.table.is_some() && !there.has_no_filter) {
            return Some(GapReason::PublicationNarrowed);
        }
        (there.number != number || there.table != Some(table)).then_some(GapReason::PublicationRemade)
    }
}

/// Why the stream cannot go on without skipping changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GapReason {
    /// This installation made a slot, and it is gone.
    SlotMissing,
    /// The server has removed log that it needed.
    SlotInvalidated,
    /// What has its name is no slot of ours.
    SlotForeign,
    /// It stands further than anything that we confirmed.
    SlotMoved { slot: Lsn, confirmed: Lsn },
    /// The database was copied or restored into another cluster.
    OtherCluster,
    /// The publication is gone.
    PublicationMissing,
    /// It was dropped and made anew, or the table was taken out of it, or it left items out while the slot was read.
    PublicationRemade,
    /// It leaves new items out.
    PublicationNarrowed,
}

impl std::fmt::Display for GapReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SlotMissing => f.write_str("the slot is missing, though this installation made one"),
            Self::SlotInvalidated => f.write_str(
                "the slot is invalidated: the server removed log that it needed (max_slot_wal_keep_size), or its rows",
            ),
            Self::SlotForeign => {
                f.write_str("what has the slot's name is another's: of another database or output plugin")
            }
            Self::SlotMoved { slot, confirmed } => write!(
                f,
                "the slot stands at {slot}, further than the {confirmed} that was confirmed: it was made anew or moved by \
                 somebody else"
            ),
            Self::OtherCluster => {
                f.write_str("this is another cluster than the one that the slot was made on")
            }
            Self::PublicationMissing => f.write_str("the publication is missing"),
            Self::PublicationRemade => {
                f.write_str("the publication, or the table in it, is not the one that the slot was made for, or was changed while the slot was read")
            }
            Self::PublicationNarrowed => {
                f.write_str("the publication leaves new items out: it has a row filter, or not `insert`")
            }
        }
    }
}

impl GapReason {
    /// The port's error.
    pub(crate) fn into_error(self, slot: &str) -> Error {
        Error::gap(format!("open the table stream from slot {slot}: {self}"))
    }
}

/// What came of looking at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is ours, and nothing is missing.
    Good,
    /// Changes are missing.
    Gap(GapReason),
}

/// Looks at it. `switched_at` is where the timeline that we know ended, where the server is on another by now.
///
/// *Unavailable*: the server is a standby. *Misconfigured*: nothing was provisioned here.
pub(crate) fn judge(
    slot_name: &str,
    identity: &Identity,
    facts: &Facts,
    switched_at: Option<Lsn>,
) -> Result<Verdict> {
    let provision = |what: &str| {
        let schema = facts.schema.as_deref().unwrap_or("of search_path, which does not exist");
        Error::misconfigured(format!("{what} in schema {schema}: run `tidings provision`"))
    };
    if facts.is_standby {
        return Err(Error::unavailable("open the table stream: the server is a standby, which only reads"));
    }
    if facts.items.is_none() {
        return Err(provision("there is no table items"));
    }
    let Some(known) = facts.known.as_ref().filter(|known| known.is_made) else {
        return Err(provision(&format!("no slot {slot_name} was made for the installation")));
    };
    let gap = |reason| Ok(Verdict::Gap(reason));
    if known.system_id != identity.system_id {
        return gap(GapReason::OtherCluster);
    }
    let Some(slot) = &facts.slot else { return gap(GapReason::SlotMissing) };
    if slot.plugin.as_deref() != Some("pgoutput") || slot.database.as_ref() != Some(&facts.database) {
        return gap(GapReason::SlotForeign);
    }
    if slot.wal_status.as_deref().is_none_or(|status| status == "lost") {
        return gap(GapReason::SlotInvalidated);
    }
    if let Some(reason) = Publication::gap(facts.publication, known.publication, known.published_table) {
        return gap(reason);
    }
    let Some(at) = slot.confirmed else { return gap(GapReason::SlotInvalidated) };
    // Behind the place where an earlier timeline ended a slot can only have been made after it. Before that place what our
    // row lacks was lost with the old server, and confirmed all the same.
    let excused = switched_at.is_some_and(|ended| at <= ended);
    if at > known.confirmed && !excused {
        return gap(GapReason::SlotMoved { slot: at, confirmed: known.confirmed });
    }
    Ok(Verdict::Good)
}

impl Facts {
    /// Reads the answer; none where it is not what was asked for.
    pub(crate) fn read(rows: &[TextRow]) -> Option<Self> {
        let [row] = rows else { return None };
        let [
            standby,
            database,
            schema,
            pid,
            items,
            is_made,
            system_id,
            timeline,
            known_publication,
            published_table,
            confirmed,
            plugin,
            slot_database,
            active_pid,
            wal_status,
            flushed,
            publication,
            inserts,
            table,
            no_filter,
            lag,
            retained,
            safe,
        ] = row.as_slice()
        else {
            return None;
        };
        // Below nothing there is nothing: what is safe is negative once the limit is passed.
        let bytes = |value: &Option<String>| {
            Some(value.as_ref()?.parse::<i64>().ok()?.try_into().unwrap_or_default())
        };
        let known = match system_id {
            Some(system_id) => Some(Known {
                is_made: is_true(is_made),
                system_id: system_id.clone(),
                timeline: number(timeline)?,
                publication: number(known_publication)?,
                published_table: number(published_table)?,
                confirmed: Lsn::parse(confirmed.as_ref()?)?,
            }),
            None => None,
        };
        // A logical slot always has a plugin; a physical one has neither.
        let slot = (plugin.is_some() || wal_status.is_some() || active_pid.is_some()).then(|| Slot {
            plugin: plugin.clone(),
            database: slot_database.clone(),
            active_pid: number(active_pid),
            wal_status: wal_status.clone(),
            confirmed: flushed.as_deref().and_then(Lsn::parse),
        });
        let publication = number(publication).map(|found| Publication {
            number: found,
            publishes_inserts: is_true(inserts),
            table: number(table),
            has_no_filter: is_true(no_filter),
        });
        Some(Self {
            is_standby: is_true(standby),
            database: database.clone()?,
            schema: schema.clone(),
            pid: number(pid)?,
            items: number(items),
            known,
            slot,
            publication,
            sample: Sample {
                lag_bytes: bytes(lag),
                retained_bytes: bytes(retained),
                safe_bytes: bytes(safe),
                status: wal_status.clone(),
            },
        })
    }
}

fn is_true(value: &Option<String>) -> bool {
    value.as_deref() == Some("t")
}

fn number<T: std::str::FromStr>(value: &Option<String>) -> Option<T> {
    value.as_ref()?.parse().ok()
}

/// The kind that a verdict has for whoever recovers.
impl Verdict {
    pub(crate) fn into_result(self, slot: &str) -> Result<()> {
        match self {
            Self::Good => Ok(()),
            Self::Gap(reason) => {
                let error = reason.into_error(slot);
                debug_assert_eq!(error.kind, ErrorKind::Gap);
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;
