//! What an error of the replication connection means, whose SQLSTATEs come as text (those of all others are read in
//! `fault.rs`). Rule: what passes by itself is an outage; what does not is looked
//! at again with the server's own tables, since one SQLSTATE stands for several things.

use tidings_domain::{Error, ErrorKind};

/// An error of the replication connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// What it means.
    pub(crate) class: Class,
    /// What the server or the library said.
    pub(crate) text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Failure {}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// It passes: the server is away, starting, stopping or full.
    Away,
    /// The server is being shut down: our session has to end for that.
    Stopping,
    /// Another session reads the slot.
    Held,
    /// Something that has a name is not there: the slot, or the publication at the time of a change.
    Missing,
    /// The slot cannot be read from.
    Unreadable,
    /// The table of this installation is not there.
    NotProvisioned,
    /// It stays so until somebody changes a right, a password or a setting.
    Refused,
    /// The server's TLS is not what was asked for.
    Untrusted,
    /// What came is not what was agreed on.
    Protocol,
}

impl Failure {
    /// One that passes.
    pub(crate) fn away(text: impl Into<String>) -> Self {
        Self { class: Class::Away, text: text.into() }
    }

    /// One that breaks what was agreed on.
    pub(crate) fn protocol(text: impl Into<String>) -> Self {
        Self { class: Class::Protocol, text: text.into() }
    }

    /// The server's own refusal, whose text ends with `(SQLSTATE xxxxx)`.
    pub(crate) fn of_server(text: impl Into<String>) -> Self {
        let text = text.into();
        let class = sqlstate(&text).map_or(Class::Away, classify);
        Self { class, text }
    }

    /// The port's error.
    pub(crate) fn into_error(self, doing: &str) -> Error {
        let kind = match self.class {
            Class::Away | Class::Stopping | Class::Held | Class::Protocol => ErrorKind::Unavailable,
            Class::Missing | Class::Unreadable => ErrorKind::Gap,
            Class::NotProvisioned | Class::Refused | Class::Untrusted => ErrorKind::Misconfigured,
        };
        let mend = match self.class {
            Class::NotProvisioned => ": run `tidings provision`",
            Class::Refused => {
                ": look at the user's rights (REPLICATION, the tables), its password and pg_hba.conf"
            }
            Class::Untrusted => {
                ": the server's TLS is not what sslmode asks for, or its certificate is not trusted or of another name"
            }
            _ => "",
        };
        Error::new(kind, format!("{doing}{mend}")).with_source(self)
    }
}

/// The SQLSTATE at the end of `text`.
fn sqlstate(text: &str) -> Option<&str> {
    let (_, rest) = text.rsplit_once("(SQLSTATE ")?;
    rest.strip_suffix(')').filter(|code| code.len() == 5 && code.is_ascii())
}

/// The table of SQLSTATEs (PostgreSQL, appendix A).
pub(crate) fn classify(code: &str) -> Class {
    match code {
        // Shut down by an administrator, after a crash, and refused meanwhile.
        "57P01" | "57P02" | "57P03" => Class::Stopping,
        "55006" => Class::Held,
        "42704" => Class::Missing,
        "55000" => Class::Unreadable,
        "42P01" | "3F000" => Class::NotProvisioned,
        // No such database; a feature or an option that this server lacks; a statement that it does not understand.
        "3D000" | "0A000" | "22023" | "42601" | "42703" | "42883" => Class::Refused,
        _ => match &code[..2] {
            // Connections (08), resources (53), rollbacks (40), an operator or a limit (57), the system (58), damage (XX),
            // the settings file (F0).
            "08" | "53" | "40" | "57" | "58" | "XX" | "F0" => Class::Away,
            // Login (28), rights (42501).
            "28" | "42" => Class::Refused,
            _ => Class::Away,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sqlstate_has_its_class() {
        let table = [
            ("57P01", Class::Stopping),
            ("57P02", Class::Stopping),
            ("57P03", Class::Stopping),
            ("08006", Class::Away),
            ("08P01", Class::Away),
            ("53300", Class::Away),
            ("53100", Class::Away),
            ("57014", Class::Away),
            ("40001", Class::Away),
            ("XX000", Class::Away),
            ("58030", Class::Away),
            ("55006", Class::Held),
            ("42704", Class::Missing),
            ("55000", Class::Unreadable),
            ("42P01", Class::NotProvisioned),
            ("28P01", Class::Refused),
            ("28000", Class::Refused),
            ("42501", Class::Refused),
            ("3D000", Class::Refused),
            ("0A000", Class::Refused),
            ("99999", Class::Away),
        ];
        for (code, class) in table {
            let failure = Failure::of_server(format!("Fehler (SQLSTATE 00000) (SQLSTATE {code})"));
            assert_eq!(failure.class, class, "{code}");
        }
    }

    #[test]
    fn a_text_without_a_code_passes() {
        for text in ["", "x", "(SQLSTATE )", "(SQLSTATE äöü)", "(SQLSTATE 57P03) and more"] {
            assert_eq!(Failure::of_server(text).class, Class::Away, "{text:?}");
        }
    }

    #[test]
    fn what_the_port_hears() {
        let kind = |class| Failure { class, text: "x".to_owned() }.into_error("open the slot").kind;
        assert_eq!(kind(Class::Away), ErrorKind::Unavailable);
        assert_eq!(kind(Class::Missing), ErrorKind::Gap);
        assert_eq!(kind(Class::Refused), ErrorKind::Misconfigured);
        assert_eq!(kind(Class::NotProvisioned), ErrorKind::Misconfigured);
    }
}
