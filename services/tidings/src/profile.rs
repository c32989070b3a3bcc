//! The profiles: what plays each role of the topology, as one match.

use std::{pin::Pin, sync::Arc, time::Duration};

use clap::ValueEnum;
use opentelemetry::metrics::Meter;
use tidings_domain::ports::{
    Bus, Catalog, Changes, Clock, DeadLetters, Deliveries, Dependency, Entropy, Items, Limits, Mail, Mailbox,
    Subscriptions, Topology,
};

use crate::settings::Settings;

#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "selfhosted")]
pub(crate) mod selfhosted;

/// Which adapters play the roles of the topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Everything in this process, on one SQLite file.
    Embedded,
    /// RabbitMQ, Postgres and Redis; any number of processes.
    Selfhosted,
}

impl Profile {
    /// Reads the setting; an error says what to do.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (profile, is_built) = match text {
            "embedded" => (Self::Embedded, cfg!(feature = "embedded")),
            "selfhosted" => (Self::Selfhosted, cfg!(feature = "selfhosted")),
            "aws" => return Err("this build of tidings does not have the profile aws".to_owned()),
            other => return Err(format!("there is no profile {other:?}: write embedded or selfhosted")),
        };
        if !is_built {
            return Err(format!(
                "this build of tidings does not have the profile {text}: build it with the cargo feature {text}"
            ));
        }
        Ok(profile)
    }

    /// The word that settings and people use.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Selfhosted => "selfhosted",
        }
    }

    /// What spans name the bus.
    pub(crate) fn messaging_system(self) -> &'static str {
        match self {
            Self::Embedded => "sqlite",
            Self::Selfhosted => "rabbitmq",
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

/// What plays each role, as ports.
pub(crate) struct Stack {
    /// Topics and queues.
    pub(crate) bus: Arc<dyn Bus>,
    /// Their setting up.
    pub(crate) topology: Arc<dyn Topology>,
    /// The stored messages.
    pub(crate) items: Arc<dyn Items>,
    /// The table stream.
    pub(crate) changes: Arc<dyn Changes>,
    /// Topics and keys.
    pub(crate) catalog: Arc<dyn Catalog>,
    /// Who is subscribed.
    pub(crate) subscriptions: Arc<dyn Subscriptions>,
    /// The queue of mails.
    pub(crate) deliveries: Arc<dyn Deliveries>,
    /// What cannot go on.
    pub(crate) dead_letters: Arc<dyn DeadLetters>,
    /// Rates, fingerprints, what was just accepted.
    pub(crate) limits: Arc<dyn Limits>,
    /// Sending; none in a process that mails nobody.
    pub(crate) mail: Option<Arc<dyn Mail>>,
    /// The built-in mail catcher's reading side, where mail goes there.
    pub(crate) mailbox: Option<Arc<dyn Mailbox>>,
    /// Without which nothing works: they decide readiness.
    pub(crate) needed: Vec<Arc<dyn Dependency>>,
    /// What readiness shows beside these; who needs one says so.
    pub(crate) dependencies: Vec<Arc<dyn Dependency>>,
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// What adapters are made from.
#[cfg_attr(not(feature = "selfhosted"), allow(dead_code, reason = "what one profile alone reads"))]
pub(crate) struct Parts<'a> {
    /// What is in force.
    pub(crate) settings: &'a Settings,
    /// What their metrics are made of.
    pub(crate) meter: Meter,
    /// The wall clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// Randomness.
    pub(crate) entropy: Arc<dyn Entropy>,
}

impl Stack {
    /// Makes what the profile says, for a process that runs `roles`. `embedded` opens its file and provisions itself here;
    /// elsewhere nothing is asked for yet, so that a server which is down stops nobody.
    pub(crate) async fn open(parts: Parts<'_>, roles: &[Role]) -> anyhow::Result<Self> {
        match parts.settings.profile {
            #[cfg(feature = "embedded")]
            Profile::Embedded => embedded::open(parts).await,
            #[cfg(feature = "selfhosted")]
            Profile::Selfhosted => selfhosted::open(parts, roles),
            #[allow(unreachable_patterns, reason = "reached where a profile is not built in")]
            profile => {
                let _ = roles;
                anyhow::bail!("this build of tidings does not have the profile {}", profile.as_str())
            }
        }
    }

    /// Writes what is still to be written and lets go, within `limit`: what is not said to a server by then it finds out by
    /// itself.
    pub(crate) async fn close(self, limit: Duration) {
        if tokio::time::timeout(limit, self.closing).await.is_err() {
            tracing::warn!(?limit, "what the services speak to could not be let go of in time");
        }
    }
}
