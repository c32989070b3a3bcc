//! The ports: what crosses the line between services and adapters.
//!
//! | port | promise in a line | called by | implemented by |
//! |---|---|---|---|
//! | [`Bus`], [`Consumer`] | a publish that answers Ok is durable and routed; a queue hands out under leases | api, cdc-watcher; subscriber, mailer | sqlite, memory (rabbitmq, aws) |
//! | [`Topology`] | topics and queues stand, or what is missing is named | api, subscriber, provisioning | sqlite, memory (rabbitmq, aws) |
//! | [`Items`] | one row per id for ever | subscriber, mailer, api | sqlite, memory (postgres, aws) |
//! | [`Changes`], [`ChangeStream`] | every committed item comes at least once; the position moves by `confirm` only | cdc-watcher | sqlite, memory (postgres, aws) |
//! | [`Catalog`] | topics, API keys, what provisioning wrote | api, mailer, all at start | sqlite, memory (postgres, aws) |
//! | [`Subscriptions`] | a request and its mail are one transaction | api, mailer | sqlite, memory (postgres, aws) |
//! | [`Deliveries`] | the queue of mails: planned all or none, held by one, recorded before DATA | mailer, api | sqlite, memory (postgres, aws) |
//! | [`DeadLetters`] | listing changes nothing, a redrive never loses | all | sqlite, memory (postgres, aws) |
//! | [`Mail`], [`MailTransaction`] | the seam before DATA | mailer | smtp, sqlite (the catcher), memory |
//! | [`Mailbox`] | the catcher's reading side | api | sqlite, memory |
//! | [`Limits`] | may be lost at any time | api | memory (redis) |
//! | [`Clock`], [`Entropy`] | time and chance | all | services/tidings, memory |
//! | [`Dependency`] | what an adapter last saw, no I/O | health | every adapter |
//!
//! All are dyn-compatible and take batches, so that a boxed future a call is noise. Every method may be called
//! concurrently. Every call ends within its adapter's own time limit with an error; it never hangs. A dropped call may
//! have had its effect: that is *unknown*, as everywhere.

mod bus;
mod catalog;
mod chance;
mod changes;
mod dead_letters;
mod deliveries;
mod dependency;
mod items;
mod limits;
mod mail;
mod mailbox;
mod subscriptions;
mod topology;

pub use bus::{Bus, BusCapabilities, BusTopic, Consumer, Lease, Queue, Received, Settlement};
pub use catalog::{Catalog, INSTALLATION_VERSION, Installation, RemovedTopic};
pub use chance::{Clock, Entropy};
pub use changes::{Captured, ChangeStream, Changes, Position, StreamHold, UnreadableChange};
pub use dead_letters::{ClaimedDeadLetter, DeadLetterDepth, DeadLetters};
pub use deliveries::Deliveries;
pub use dependency::{Dependency, DependencyState};
pub use items::{Expired, Inserted, ItemQuery, Items, NewItem};
pub use limits::{Admission, Bucket, Limits, Request};
pub use mail::{Mail, MailEnvelope, MailError, MailErrorClass, MailPhase, MailReply, MailTransaction};
pub use mailbox::{CaughtMail, CaughtMailSummary, Mailbox, MailboxQuery};
pub use subscriptions::{SubscriptionQuery, Subscriptions};
pub use topology::{MissingTopology, Topology};
