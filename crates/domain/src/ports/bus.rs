use std::time::Duration;

use async_trait::async_trait;

use crate::{Result, topic::TopicName, wire::Envelope};

/// A fan-out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BusTopic {
    /// `<namespace>-topic-<name>`: what was posted. Its messages reach the queue `items`.
    Messages(TopicName),
    /// `<namespace>-notifications`: change records. They reach the queue `mail`.
    Notifications,
}

/// A queue of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Queue {
    /// `<namespace>-items`, the subscriber's.
    Items,
    /// `<namespace>-mail`, the mailer's.
    Mail,
    /// `<namespace>-items-dead`: the broker's safety net, which the subscriber drains into the dead letters.
    ItemsDead,
    /// `<namespace>-mail-dead`: the broker's safety net, which the mailer drains into the dead letters.
    MailDead,
}

impl Queue {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Items, Self::Mail, Self::ItemsDead, Self::MailDead];

    /// The name without its namespace.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Items => "items",
            Self::Mail => "mail",
            Self::ItemsDead => "items-dead",
            Self::MailDead => "mail-dead",
        }
    }

    /// Where the bus puts what it has handed out too often.
    pub fn safety_net(self) -> Option<Self> {
        match self {
            Self::Items => Some(Self::ItemsDead),
            Self::Mail => Some(Self::MailDead),
            Self::ItemsDead | Self::MailDead => None,
        }
    }
}

/// What a bus can do: where buses differ, the difference is data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusCapabilities {
    /// Entries of one publish call that cross in one go; a longer batch is split by the adapter.
    pub max_batch: usize,
    /// Bytes of body and headers of one publish, as the bus counts them; more is *rejected* before anything is sent.
    pub max_publish_bytes: usize,
    /// How long a lease lasts unless extended; none where a lease lasts as long as the consumer's connection.
    pub lease: Option<Duration>,
    /// Whether a released message comes back with its count of returns unchanged.
    pub release_is_uncounted: bool,
}

/// Publishing and consuming.
#[async_trait]
pub trait Bus: Send + Sync {
    /// Publishes each of `batch` to `topic` and answers for each, in order.
    ///
    /// Ok: durable, and routed to our queue. *Unknown*: it may have been taken; the same id may be published again.
    /// *Rejected*: too large, never taken. *Not found* or *misconfigured*: no topic or no binding of ours, not taken
    /// by us. *Unavailable*: nothing was sent. Never waits longer than the bus's own limit, also while the broker is
    /// blocked. One entry's failure says nothing of its neighbours.
    async fn publish(&self, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>>;

    /// Opens a consumer of `queue` that is assigned at most `prefetch` unsettled messages. Several consumers of one
    /// queue, in one process or many, share its messages.
    async fn consume(&self, queue: Queue, prefetch: usize) -> Result<Box<dyn Consumer>>;

    /// What this bus can do.
    fn capabilities(&self) -> BusCapabilities;
}

/// What a lease is known by: opaque to everyone but the adapter that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// Which connection or life of the consumer handed it out.
    pub epoch: u64,
    /// Which message.
    pub tag: u64,
}

/// What a queue hands out.
#[derive(Clone, Debug, PartialEq)]
pub struct Received {
    /// The message.
    pub envelope: Envelope,
    /// How often the bus has handed it out before and got it back. A guard only: attempts are ours, in the loop or in
    /// a row, never this.
    pub returns: u32,
    /// The lease to settle it by.
    pub lease: Lease,
}

/// How a message is given back, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// It is dealt with: gone from the queue for good. Given only after its effect is durable.
    Done,
    /// Back to the queue at once, for whoever asks next; no attempt is counted.
    Release,
}

/// One consumer. Its methods may be called while a `receive` waits. Dropped without a stop it gives back what it holds.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Up to `max` messages; waits up to `wait` for the first. Cancel-safe: what a dropped call had taken comes with
    /// the next one. An empty answer after [`Consumer::stop`] means empty for good.
    ///
    /// An error ends the consumer: *unavailable* when the bus is away; open another.
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Received>>;

    /// Extends each lease to the bus's full time from now; answers for each, in order. *Lease lost*: someone else may
    /// hold it. Does nothing where leases last as long as the connection.
    async fn extend(&self, leases: &[Lease]) -> Vec<Result<()>>;

    /// Asked right before messages go to their handler. No I/O: whether what this consumer has handed out and nobody has
    /// settled is known to be gone back (its connection has ended), so that a handler would work for nothing. As it stands
    /// here: for leases that do not hang on a connection. A decorator passes on what the consumer within says.
    fn is_lost(&self) -> bool {
        false
    }

    /// Settles each; answers for each, in order. A stale lease is *lease lost*, changes nothing and may mean that the
    /// message is handed out a second time.
    async fn settle(&self, settlements: Vec<(Lease, Settlement)>) -> Vec<Result<()>>;

    /// Nothing new is assigned from now on. What was assigned and not handed out yet still comes out of `receive`, or is
    /// given back by dropping the consumer. May be called more than once.
    async fn stop(&self);
}
