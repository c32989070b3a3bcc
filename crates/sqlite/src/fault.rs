//! What SQLite's errors mean.

use tidings_domain::{Error, ErrorKind, Result};

/// SQLite's primary result codes (sqlite.org/rescode.html).
mod code {
    pub(super) const BUSY: i32 = 5;
    pub(super) const LOCKED: i32 = 6;
    pub(super) const READONLY: i32 = 8;
    pub(super) const IOERR: i32 = 10;
    pub(super) const CORRUPT: i32 = 11;
    pub(super) const FULL: i32 = 13;
    pub(super) const CANTOPEN: i32 = 14;
    pub(super) const TOOBIG: i32 = 18;
    pub(super) const CONSTRAINT: i32 = 19;
    pub(super) const MISMATCH: i32 = 20;
    pub(super) const NOTADB: i32 = 26;
    /// Extended: the index of the log cannot grow, for want of room.
    pub(super) const IOERR_SHMSIZE: i32 = IOERR | (19 << 8);
}

/// The primary code of an error that SQLite gave.
fn primary(error: &sqlx::Error) -> Option<i32> {
    let code = error.as_database_error()?.code()?;
    code.parse::<i32>().ok().map(|code| match code {
        code::IOERR_SHMSIZE => code::FULL,
        code => code & 0xff,
    })
}

/// Whether a row is at fault and nothing else (the one to write, or one that a hand in the file has made unreadable): its
/// neighbours may be written.
pub(crate) fn is_rejection(error: &sqlx::Error) -> bool {
    matches!(primary(error), Some(code::CONSTRAINT | code::TOOBIG | code::MISMATCH)) || is_unreadable(error)
}

/// Whether a row was read and says what no row of ours says.
fn is_unreadable(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
}

/// Whether the connection may be of no more use.
pub(crate) fn breaks_connection(error: &sqlx::Error) -> bool {
    !is_rejection(error) && !matches!(primary(error), Some(code::FULL | code::BUSY | code::LOCKED))
}

/// What is wrong, in words, and the mend.
fn words(error: &sqlx::Error) -> &'static str {
    match primary(error) {
        Some(code::CONSTRAINT | code::TOOBIG | code::MISMATCH) => "the table refuses the row",
        Some(code::FULL) => "the disk is full: make room in the data folder",
        Some(code::BUSY | code::LOCKED) => "another program holds the database: let it end its transaction",
        Some(code::READONLY) => "the database is read-only: give this user the right to write",
        Some(code::CORRUPT | code::NOTADB) => {
            "the database is damaged: restore tidings.db from a copy, or move it away to begin anew"
        }
        Some(code::IOERR) => {
            "the disk fails, or a quota or a limit of file sizes is reached: look at the system's log"
        }
        Some(code::CANTOPEN) => "the database cannot be opened: look at the data folder's rights",
        _ => match error {
            sqlx::Error::PoolTimedOut => "all readers are busy",
            sqlx::Error::PoolClosed => "the store is closed",
            error if is_unreadable(error) => "a row cannot be read",
            _ => "the database does not answer",
        },
    }
}

fn kind(error: &sqlx::Error) -> ErrorKind {
    if is_rejection(error) { ErrorKind::Rejected } else { ErrorKind::Unavailable }
}

/// An error of a read, or of a write whose transaction was rolled back: it had no effect.
pub(crate) fn without_effect(error: sqlx::Error, what: &str) -> Error {
    let words = words(&error);
    Error::new(kind(&error), format!("{what}: {words}")).with_source(error)
}

/// An error of a COMMIT. Where the log could not take the last frame, nothing was committed; after a failed write or sync
/// nobody can tell before the next start.
pub(crate) fn of_commit(error: sqlx::Error, what: &str) -> Error {
    let kind = match primary(&error) {
        Some(code::FULL | code::BUSY | code::LOCKED | code::CONSTRAINT) => ErrorKind::Unavailable,
        _ => ErrorKind::Unknown,
    };
    let words = words(&error);
    Error::new(kind, format!("{what}: {words}")).with_source(error)
}

/// An error while the store is opened: someone has to mend something.
pub(crate) fn opening(error: sqlx::Error, what: &str) -> Error {
    let kind = match primary(&error) {
        Some(code::FULL | code::BUSY | code::LOCKED | code::IOERR) => ErrorKind::Unavailable,
        _ => ErrorKind::Misconfigured,
    };
    let words = words(&error);
    Error::new(kind, format!("{what}: {words}")).with_source(error)
}

/// Whether an error says that the store is ill, not that a call was wrong.
pub(crate) fn is_illness(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Misconfigured)
}

/// Whether an error says that the file is damaged.
pub(crate) fn is_damage(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<sqlx::Error>());
    matches!(source.and_then(primary), Some(code::CORRUPT | code::NOTADB))
}

/// Reads what a row holds where it can only be broken by hand: *rejected*, never a panic.
pub(crate) fn readable<T>(value: Option<T>, what: &str) -> Result<T> {
    value
        .ok_or_else(|| Error::rejected(format!("a row holds no readable {what}: someone changed it by hand")))
}
