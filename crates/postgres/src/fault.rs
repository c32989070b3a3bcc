//! What an error of the server or the driver means: the one place where SQLSTATEs are read.
//!
//! An error that the server sends has rolled its transaction back: nothing of it was done. Only where no answer comes, or the
//! server says itself that it cannot tell, is the outcome of a write unknown.

use tidings_domain::{Error, ErrorKind, Result};

/// The SQLSTATEs that we decide on (PostgreSQL's appendix A).
pub(crate) mod code {
    /// `statement_completion_unknown`.
    pub(crate) const COMPLETION_UNKNOWN: &str = "40003";
    /// `serialization_failure`.
    pub(crate) const SERIALIZATION_FAILURE: &str = "40001";
    /// `deadlock_detected`.
    pub(crate) const DEADLOCK: &str = "40P01";
    /// `query_canceled`: by `statement_timeout`, or by a person.
    pub(crate) const QUERY_CANCELED: &str = "57014";
    /// `read_only_sql_transaction`: a standby, or a database that was made read-only.
    pub(crate) const READ_ONLY: &str = "25006";
    /// `lock_not_available`.
    pub(crate) const LOCK_NOT_AVAILABLE: &str = "55P03";
    /// `too_many_connections`.
    pub(crate) const TOO_MANY_CONNECTIONS: &str = "53300";
    /// `disk_full`.
    pub(crate) const DISK_FULL: &str = "53100";
    /// `undefined_table`.
    pub(crate) const UNDEFINED_TABLE: &str = "42P01";
    /// `insufficient_privilege`.
    pub(crate) const INSUFFICIENT_PRIVILEGE: &str = "42501";
    /// `invalid_catalog_name`: no such database.
    pub(crate) const NO_DATABASE: &str = "3D000";
}

/// The server's SQLSTATE, where the error is one of the server's.
pub(crate) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(|code| code.into_owned())
}

/// What a call that failed wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A session: nothing was asked yet.
    Connect,
    /// To read, or to write within a transaction that was not committed: no effect, whatever became of it.
    Read,
    /// To write: without an answer its outcome is unknown.
    Write,
}

/// The kind of an error of `call`.
pub(crate) fn kind(error: &sqlx::Error, call: Call) -> ErrorKind {
    match sqlstate(error) {
        Some(code) => of_server(&code, call),
        None => of_driver(error, call),
    }
}

fn of_server(code: &str, call: Call) -> ErrorKind {
    let unanswered = match call {
        Call::Write => ErrorKind::Unknown,
        Call::Read => ErrorKind::Transient,
        Call::Connect => ErrorKind::Unavailable,
    };
    match code {
        code::COMPLETION_UNKNOWN | code::QUERY_CANCELED => unanswered,
        code::SERIALIZATION_FAILURE | code::DEADLOCK | code::LOCK_NOT_AVAILABLE => ErrorKind::Transient,
        code::READ_ONLY => ErrorKind::Unavailable,
        // Another one of its kind; a limit of the server on the row (an index entry that is too large).
        "54000" => ErrorKind::Rejected,
        code::NO_DATABASE | code::INSUFFICIENT_PRIVILEGE => ErrorKind::Misconfigured,
        // The plan of a prepared statement is of an older schema: the next session makes a new one.
        "0A000" | "26000" if call != Call::Connect => ErrorKind::Transient,
        _ => match &code[..code.len().min(2)] {
            "22" | "23" | "44" => ErrorKind::Rejected,
            // Of the session, of resources, of a hand that ends it, of the system below it, damage.
            "08" | "53" | "57" | "58" | "XX" | "25" => ErrorKind::Unavailable,
            "40" | "55" => ErrorKind::Transient,
            "28" | "3D" | "3F" | "42" | "0A" | "F0" => ErrorKind::Misconfigured,
            _ => ErrorKind::Unavailable,
        },
    }
}

fn of_driver(error: &sqlx::Error, call: Call) -> ErrorKind {
    match error {
        // A value that cannot be put on the wire was not sent.
        sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_) => ErrorKind::Rejected,
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } if call != Call::Write => {
            ErrorKind::Rejected
        }
        sqlx::Error::PoolClosed | sqlx::Error::PoolTimedOut => ErrorKind::Unavailable,
        sqlx::Error::Configuration(_) => ErrorKind::Misconfigured,
        // A certificate that is not trusted is no outage that passes by itself; a server that hangs up is.
        sqlx::Error::Tls(_) => ErrorKind::Misconfigured,
        sqlx::Error::Io(error) if call == Call::Connect && is_about_certificates(error) => {
            ErrorKind::Misconfigured
        }
        _ => match call {
            Call::Write => ErrorKind::Unknown,
            Call::Read | Call::Connect => ErrorKind::Unavailable,
        },
    }
}

/// Whether a handshake failed for what the server showed, as the TLS library tells it through the socket.
fn is_about_certificates(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(
        inner,
        Some(
            rustls::Error::InvalidCertificate(_)
                | rustls::Error::NoCertificatesPresented
                | rustls::Error::UnsupportedNameType
                | rustls::Error::AlertReceived(_)
        )
    )
}

/// What is wrong, in words, and the mend.
fn words(error: &sqlx::Error, kind: ErrorKind, call: Call) -> String {
    let code = sqlstate(error);
    let fixed = match code.as_deref() {
        Some(code::UNDEFINED_TABLE | "42703" | "42883" | "3F000") => {
            "the database lacks what it needs: run `tidings provision`, and look at the URL's search_path"
        }
        Some(code::INSUFFICIENT_PRIVILEGE) => "this user may not: grant the right",
        Some("28P01" | "28000") => {
            "the server refuses this user or password: look at DATABASE_URL and pg_hba.conf"
        }
        Some(code::NO_DATABASE) => "there is no such database: make it, or mend DATABASE_URL",
        Some(code::TOO_MANY_CONNECTIONS) => "the server has no connection left: raise max_connections",
        Some(code::DISK_FULL) => "the server's disk is full: make room",
        Some(code::READ_ONLY) => "the server only reads: it is a standby, or was made read-only",
        Some(code::QUERY_CANCELED) => "the statement took longer than its limit and was cancelled",
        Some("57P01" | "57P02" | "57P03") => "the server is stopping or starting",
        Some(code) => {
            // A name of ours, never what the row held.
            let constraint = error.as_database_error().and_then(|error| error.constraint());
            return match constraint {
                Some(constraint) => format!("the table refuses the row: {constraint}"),
                None => format!("the server says {code}"),
            };
        }
        None => match (error, kind) {
            (sqlx::Error::PoolClosed, _) => "the store is closed",
            (sqlx::Error::PoolTimedOut, _) => "no connection was free in time",
            (sqlx::Error::Encode(_) | sqlx::Error::InvalidArgument(_), _) => "a value cannot be sent",
            (sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. }, _) => "a row cannot be read",
            (_, ErrorKind::Misconfigured) => {
                "the server's TLS is not what sslmode asks for, or its certificate is not trusted"
            }
            (sqlx::Error::Io(error), _) if error.kind() == std::io::ErrorKind::TimedOut => {
                "the server does not answer"
            }
            _ if call == Call::Connect => "the server cannot be reached",
            _ => "the connection to the server ended",
        },
    };
    fixed.to_owned()
}

/// An error of `call` while doing `what`.
pub(crate) fn of(error: sqlx::Error, call: Call, what: &str) -> Error {
    let kind = kind(&error, call);
    let words = words(&error, kind, call);
    Error::new(kind, format!("{what}: {words}")).with_source(error)
}

/// Whether a row is at fault and nothing else: its neighbours may be written. So it is too where a row that stands there
/// cannot be read.
pub(crate) fn is_of_a_row(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. })
        || kind(error, Call::Write) == ErrorKind::Rejected
}

/// Whether the same statement may well succeed at once: it was rolled back for what others did meanwhile.
pub(crate) fn is_worth_repeating(error: &sqlx::Error) -> bool {
    matches!(sqlstate(error).as_deref(), Some(code::SERIALIZATION_FAILURE | code::DEADLOCK))
}

/// Whether the session is as good as before.
pub(crate) fn leaves_session(error: &sqlx::Error) -> bool {
    match sqlstate(error).as_deref() {
        Some("0A000" | "26000") => false,
        Some(code) => {
            matches!(&code[..code.len().min(2)], "22" | "23" | "40" | "42" | "44" | "55")
                || code == code::QUERY_CANCELED
        }
        None => matches!(
            error,
            sqlx::Error::Decode(_)
                | sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Encode(_)
                | sqlx::Error::InvalidArgument(_)
        ),
    }
}

/// Whether an error says that the store is ill, not that a call was wrong.
pub(crate) fn is_illness(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Unknown | ErrorKind::Misconfigured)
}

/// The error of our own limit for an answer.
pub(crate) fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// Reads what a row holds where it can only be broken by hand: *rejected*, never a panic.
pub(crate) fn readable<T>(value: Option<T>, what: &str) -> Result<T> {
    value
        .ok_or_else(|| Error::rejected(format!("a row holds no readable {what}: someone changed it by hand")))
}

#[cfg(test)]
mod tests;
