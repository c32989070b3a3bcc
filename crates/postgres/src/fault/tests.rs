use std::borrow::Cow;

use ErrorKind::{Misconfigured, Rejected, Transient, Unavailable, Unknown};

use super::*;

#[derive(Debug)]
struct OfServer(&'static str);

impl std::fmt::Display for OfServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server's words")
    }
}

impl std::error::Error for OfServer {}

impl sqlx::error::DatabaseError for OfServer {
    fn message(&self) -> &str {
        "the server's words"
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        Some(self.0.into())
    }

    fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> sqlx::error::ErrorKind {
        sqlx::error::ErrorKind::Other
    }
}

fn server(code: &'static str) -> sqlx::Error {
    sqlx::Error::Database(Box::new(OfServer(code)))
}

fn io(kind: std::io::ErrorKind) -> sqlx::Error {
    sqlx::Error::Io(kind.into())
}

/// SQLSTATE, then the kind while connecting, reading and writing.
const TABLE: [(&str, [ErrorKind; 3]); 38] = [
    ("08000", [Unavailable, Unavailable, Unavailable]),
    ("08003", [Unavailable, Unavailable, Unavailable]),
    ("08006", [Unavailable, Unavailable, Unavailable]),
    ("08P01", [Unavailable, Unavailable, Unavailable]),
    ("0A000", [Misconfigured, Transient, Transient]),
    ("22001", [Rejected, Rejected, Rejected]),
    ("22021", [Rejected, Rejected, Rejected]),
    ("22P02", [Rejected, Rejected, Rejected]),
    ("22P05", [Rejected, Rejected, Rejected]),
    ("23502", [Rejected, Rejected, Rejected]),
    ("23505", [Rejected, Rejected, Rejected]),
    ("23514", [Rejected, Rejected, Rejected]),
    ("25006", [Unavailable, Unavailable, Unavailable]),
    ("25P03", [Unavailable, Unavailable, Unavailable]),
    ("26000", [Unavailable, Transient, Transient]),
    ("28000", [Misconfigured, Misconfigured, Misconfigured]),
    ("28P01", [Misconfigured, Misconfigured, Misconfigured]),
    ("3D000", [Misconfigured, Misconfigured, Misconfigured]),
    ("3F000", [Misconfigured, Misconfigured, Misconfigured]),
    ("40001", [Transient, Transient, Transient]),
    ("40003", [Unavailable, Transient, Unknown]),
    ("40P01", [Transient, Transient, Transient]),
    ("42501", [Misconfigured, Misconfigured, Misconfigured]),
    ("42601", [Misconfigured, Misconfigured, Misconfigured]),
    ("42704", [Misconfigured, Misconfigured, Misconfigured]),
    ("42P01", [Misconfigured, Misconfigured, Misconfigured]),
    ("53000", [Unavailable, Unavailable, Unavailable]),
    ("53100", [Unavailable, Unavailable, Unavailable]),
    ("53200", [Unavailable, Unavailable, Unavailable]),
    ("53300", [Unavailable, Unavailable, Unavailable]),
    ("54000", [Rejected, Rejected, Rejected]),
    ("55P03", [Transient, Transient, Transient]),
    ("57014", [Unavailable, Transient, Unknown]),
    ("57P01", [Unavailable, Unavailable, Unavailable]),
    ("57P02", [Unavailable, Unavailable, Unavailable]),
    ("57P03", [Unavailable, Unavailable, Unavailable]),
    ("58030", [Unavailable, Unavailable, Unavailable]),
    ("XX001", [Unavailable, Unavailable, Unavailable]),
];

#[test]
fn a_sqlstate_is_one_kind_for_each_call() {
    for (code, kinds) in TABLE {
        for (call, expected) in [Call::Connect, Call::Read, Call::Write].into_iter().zip(kinds) {
            assert_eq!(kind(&server(code), call), expected, "{code} {call:?}");
        }
    }
}

#[test]
fn a_lost_answer_is_unknown_only_where_something_was_to_be_written() {
    for error in [
        std::io::ErrorKind::UnexpectedEof,
        std::io::ErrorKind::ConnectionReset,
        std::io::ErrorKind::BrokenPipe,
        std::io::ErrorKind::TimedOut,
    ] {
        assert_eq!(kind(&io(error), Call::Connect), Unavailable, "{error:?}");
        assert_eq!(kind(&io(error), Call::Read), Unavailable, "{error:?}");
        assert_eq!(kind(&io(error), Call::Write), Unknown, "{error:?}");
    }
    assert_eq!(kind(&io(std::io::ErrorKind::ConnectionRefused), Call::Connect), Unavailable);
    assert_eq!(kind(&sqlx::Error::Protocol("odd".into()), Call::Write), Unknown);
    assert_eq!(kind(&sqlx::Error::Protocol("odd".into()), Call::Read), Unavailable);
}

#[test]
fn what_the_driver_refuses_was_not_sent() {
    assert_eq!(kind(&sqlx::Error::PoolTimedOut, Call::Write), Unavailable);
    assert_eq!(kind(&sqlx::Error::PoolClosed, Call::Write), Unavailable);
    assert_eq!(kind(&sqlx::Error::Encode("too long".into()), Call::Write), Rejected);
    assert_eq!(kind(&sqlx::Error::Tls("no TLS".into()), Call::Connect), Misconfigured);
    let error = std::io::Error::other(rustls::Error::InvalidCertificate(rustls::CertificateError::Expired));
    assert_eq!(kind(&sqlx::Error::Io(error), Call::Connect), Misconfigured);
}

#[test]
fn a_row_that_cannot_be_read_is_its_own_fault_and_leaves_the_session() {
    let unreadable = || sqlx::Error::Decode("no filter".into());
    let column = sqlx::Error::ColumnDecode { index: "0".into(), source: "no number".into() };
    for error in [unreadable(), column, sqlx::Error::Encode("too long".into()), server("23514")] {
        assert!(is_of_a_row(&error) && leaves_session(&error), "{error}");
    }
    assert_eq!(kind(&unreadable(), Call::Write), Unknown, "what was asked for was done or not");
    assert_eq!(kind(&unreadable(), Call::Read), Rejected);
    for error in [server("57014"), server("40P01"), io(std::io::ErrorKind::TimedOut)] {
        assert!(!is_of_a_row(&error), "{error}");
    }
}

#[test]
fn a_context_says_the_mend_and_the_source_follows() {
    let error = of(server(code::UNDEFINED_TABLE), Call::Read, "read items");
    assert_eq!(error.kind, Misconfigured);
    assert!(error.context.starts_with("read items: ") && error.context.contains("tidings provision"));
    assert!(error.chain().ends_with("the server's words"), "{}", error.chain());
}

#[test]
fn only_what_others_did_meanwhile_is_repeated() {
    assert!(is_worth_repeating(&server(code::DEADLOCK)) && is_worth_repeating(&server("40001")));
    assert!(!is_worth_repeating(&server("57014")) && !is_worth_repeating(&io(std::io::ErrorKind::TimedOut)));
}
