//! What a suite needs of an adapter beside its ports.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tidings_domain::ports::{
    Bus, Catalog, Changes, DeadLetters, Deliveries, Items, Limits, Mail, Mailbox, NewItem, Subscriptions,
    Topology,
};

/// A suite: the behaviours of one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// `Bus` and `Consumer`. Also needs the port `topology`.
    Bus,
    /// `Topology`. Also needs the port `bus`.
    Topology,
    /// `Items`. Also needs the ports `deliveries`, `subscriptions` and `dead_letters`.
    Items,
    /// `Changes` and `ChangeStream`. Also needs the port `items`.
    Changes,
    /// `Catalog`. Also needs the port `subscriptions`.
    Catalog,
    /// `Subscriptions`. Also needs the port `deliveries`.
    Subscriptions,
    /// `Deliveries`. Also needs the ports `items`, `subscriptions` and `dead_letters`.
    Deliveries,
    /// `DeadLetters`.
    DeadLetters,
    /// `Limits`.
    Limits,
    /// `Mail`.
    Mail,
    /// `Mailbox`. Also needs the port `mail`.
    Mailbox,
}

impl Suite {
    /// The word that its tests' names begin with.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::Topology => "topology",
            Self::Items => "items",
            Self::Changes => "changes",
            Self::Catalog => "catalog",
            Self::Subscriptions => "subscriptions",
            Self::Deliveries => "deliveries",
            Self::DeadLetters => "dead_letters",
            Self::Limits => "limits",
            Self::Mail => "mail",
            Self::Mailbox => "mailbox",
        }
    }
}

/// What a fixture may be asked to do to the installation that it made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Disturbance {
    /// The broker takes no publish and answers none, until [`Fixture::mend`].
    Blocked,
    /// As after `kill -9` and a start: every handle given by [`Fixture::open`] so far is dead (the suite has dropped
    /// what it held), and whoever opens next finds what was durable.
    Restart,
    /// The bindings between our topics and our queues are gone; topics and queues stand.
    Unbind,
    /// The server of the port under test is away, until [`Fixture::mend`].
    Unavailable,
    /// Changes that were not confirmed can no longer be read.
    Gap,
    /// The mail server refuses each recipient with a 4xx, until [`Fixture::mend`].
    MailTransient,
    /// The mail server refuses each recipient with a 5xx, until [`Fixture::mend`].
    MailRecipient,
    /// The mail server refuses each mail with a 5xx after its final dot, until [`Fixture::mend`].
    MailPermanent,
    /// The mail server drops the connection after each final dot, whether it has taken the mail or not, until
    /// [`Fixture::mend`].
    MailUnknown,
    /// The mail server refuses our login, until [`Fixture::mend`].
    MailLogin,
}

/// What a behaviour needs beyond the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// [`Fixture::disturb`] with this.
    Disturb(Disturbance),
    /// Messages are handed out under leases that run out ([`tidings_domain::ports::BusCapabilities::lease`]).
    BusLease,
    /// [`Fixture::open_insert`].
    OpenInsert,
    /// [`Fixture::open_insert`] twice at once, committed in either order.
    OverlappingInserts,
}

/// An adapter under test: makes installations.
#[async_trait]
pub trait Adapter: Send + Sync + 'static {
    /// The suites to run: those of the ports that the adapter implements.
    fn suites(&self) -> Vec<Suite>;

    /// Why the adapter cannot have `need`; the behaviours that need it are then listed as ignored with this reason.
    fn cannot(&self, need: Need) -> Option<&'static str>;

    /// A fresh installation, as provisioning leaves it: the schema, the secret, the topic `messages`, and the topology
    /// of the queues and of that topic. Nothing else in it, and apart from every other installation, since behaviours
    /// run at the same time. It is removed when the fixture is dropped.
    async fn install(&self) -> Box<dyn Fixture>;

    /// The runtime that one behaviour runs in. Memory gives one whose clock is paused.
    fn runtime(&self) -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("the machine has threads and sockets for a runtime")
    }
}

/// One installation.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The ports as one more process on the same data sees them; where only one process may hold the data, as one more
    /// part of that process does.
    async fn open(&self) -> Ports;

    /// Lets `duration` pass for leases: virtual in memory; real on servers, whose fixtures are set to short leases.
    async fn elapse(&self, duration: Duration);

    /// Does `what` to the installation. Called only with what [`Adapter::cannot`] does not exclude.
    async fn disturb(&self, what: Disturbance);

    /// Ends what [`Fixture::disturb`] began. Returns when the installation answers again.
    async fn mend(&self);

    /// Begins a transaction of another party that has written `item` and not committed. Called only where
    /// [`Need::OpenInsert`] is not excluded.
    async fn open_insert(&self, item: NewItem) -> Box<dyn OpenInsert>;

    /// What the mail server took so far, oldest first.
    async fn mails(&self) -> Vec<SentMail>;
}

/// A transaction of another party that has inserted an item.
#[async_trait]
pub trait OpenInsert: Send {
    /// Commits it.
    async fn commit(self: Box<Self>);

    /// Rolls it back.
    async fn roll_back(self: Box<Self>);
}

/// What a mail server took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentMail {
    /// MAIL FROM.
    pub from: String,
    /// RCPT TO.
    pub to: String,
    /// Its source with dots unstuffed, as the transaction was given it.
    pub message: Bytes,
}

macro_rules! ports {
    ($($(#[$doc:meta])* $field:ident: $port:ident,)*) => {
        /// An adapter's ports; those that it does not implement are `None`.
        #[derive(Clone, Default)]
        pub struct Ports {
            $($(#[$doc])* pub $field: Option<Arc<dyn $port>>,)*
        }

        impl Ports {
            $(
                $(#[$doc])*
                ///
                /// Panics where the adapter gave none: its `suites` then say more than its `open`.
                pub fn $field(&self) -> Arc<dyn $port> {
                    self.$field.clone().expect(concat!("the fixture gives the port ", stringify!($field)))
                }
            )*
        }
    };
}

ports! {
    /// Publishing and consuming.
    bus: Bus,
    /// Topics, queues, bindings.
    topology: Topology,
    /// The table `items`.
    items: Items,
    /// The table stream.
    changes: Changes,
    /// Topics and keys.
    catalog: Catalog,
    /// Who is subscribed.
    subscriptions: Subscriptions,
    /// Notifications and deliveries.
    deliveries: Deliveries,
    /// What cannot go on.
    dead_letters: DeadLetters,
    /// Rates and memories.
    limits: Limits,
    /// Sending mail.
    mail: Mail,
    /// The mail catcher.
    mailbox: Mailbox,
}
