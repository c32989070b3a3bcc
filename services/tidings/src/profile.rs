//! The profiles: what plays each role of the topology, as one match.

use clap::ValueEnum;

/// Which adapters play the roles of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Everything in this process, on one SQLite file.
    Embedded,
}

impl Profile {
    /// Reads the setting; an error says what to do.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        match text {
            "embedded" => Ok(Self::Embedded),
            "selfhosted" | "aws" => {
                Err(format!("this build of tidings does not have the profile {text}: it has embedded"))
            }
            other => Err(format!("there is no profile {other:?}: this build has embedded")),
        }
    }

    /// The word that settings and people use.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
        }
    }
}

/// One of the four services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Role {
    /// Takes messages over HTTP.
    Api,
    /// Stores them.
    Subscriber,
    /// Publishes what was stored.
    CdcWatcher,
    /// Mails it.
    Mailer,
}

impl Role {
    /// All four.
    pub(crate) const ALL: [Self; 4] = [Self::Api, Self::Subscriber, Self::CdcWatcher, Self::Mailer];

    /// The word that the command line uses.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Subscriber => "subscriber",
            Self::CdcWatcher => "cdc-watcher",
            Self::Mailer => "mailer",
        }
    }

    /// The name in telemetry.
    pub(crate) fn service_name(self) -> &'static str {
        match self {
            Self::Api => "tidings-api",
            Self::Subscriber => "tidings-subscriber",
            Self::CdcWatcher => "tidings-cdc-watcher",
            Self::Mailer => "tidings-mailer",
        }
    }

    /// The port of health details and metrics of a process that runs `roles`, all of them where it is empty.
    pub(crate) fn admin_port(roles: &[Self]) -> u16 {
        match roles {
            [Self::Api] => 9081,
            [Self::Subscriber] => 9082,
            [Self::CdcWatcher] => 9083,
            [Self::Mailer] => 9084,
            _ => 9080,
        }
    }
}
