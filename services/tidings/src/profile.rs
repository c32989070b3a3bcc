//! The profiles: what plays each role of the topology, as one match.

use std::sync::Arc;

use anyhow::Context as _;
use clap::ValueEnum;
use tidings_domain::ports::{
    Bus, Catalog, Changes, Clock, DeadLetters, Deliveries, Dependency, Entropy, Items, Limits, Mail, Mailbox,
    Subscriptions, Topology,
};

use crate::settings::Settings;

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

    /// What spans name the bus.
    pub(crate) fn messaging_system(self) -> &'static str {
        match self {
            Self::Embedded => "sqlite",
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
    /// Sending.
    pub(crate) mail: Arc<dyn Mail>,
    /// The built-in mail catcher's reading side, where mail goes there.
    pub(crate) mailbox: Option<Arc<dyn Mailbox>>,
    /// Without which nothing works: they decide readiness.
    pub(crate) needed: Vec<Arc<dyn Dependency>>,
    /// What readiness shows beside these; who needs one says so.
    pub(crate) dependencies: Vec<Arc<dyn Dependency>>,
    store: Store,
}

/// What is closed at the end.
enum Store {
    Embedded(tidings_sqlite::Store),
}

impl Stack {
    /// Opens what the profile says; `embedded` provisions itself here.
    pub(crate) async fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> anyhow::Result<Self> {
        match settings.profile {
            Profile::Embedded => {
                let options = tidings_sqlite::Options {
                    directory: settings.data_dir.clone(),
                    namespace: settings.namespace.clone(),
                    clock,
                    entropy,
                };
                let store = tidings_sqlite::Store::open(options).await.with_context(|| {
                    format!("the data folder {} cannot be opened", settings.data_dir.display())
                })?;
                let mut dependencies: Vec<Arc<dyn Dependency>> = Vec::new();
                let (mail, mailbox): (Arc<dyn Mail>, _) = match &settings.smtp {
                    None => (store.mail(), Some(store.mailbox())),
                    Some(smtp) => {
                        let smtp = Arc::new(tidings_smtp::SmtpMail::new(smtp.clone())?);
                        dependencies.push(Arc::<tidings_smtp::SmtpMail>::clone(&smtp));
                        (smtp, None)
                    }
                };
                Ok(Self {
                    bus: store.bus(),
                    topology: store.topology(),
                    items: store.items(),
                    changes: store.changes(),
                    catalog: store.catalog(),
                    subscriptions: store.subscriptions(),
                    deliveries: store.deliveries(),
                    dead_letters: store.dead_letters(),
                    limits: Arc::new(tidings_memory::limits::InProcessLimits::default()),
                    mail,
                    mailbox,
                    // It is the bus and every record.
                    needed: vec![store.dependency()],
                    dependencies,
                    store: Store::Embedded(store),
                })
            }
        }
    }

    /// Writes what is still to be written and lets go.
    pub(crate) async fn close(self) {
        match self.store {
            Store::Embedded(store) => store.close().await,
        }
    }
}
