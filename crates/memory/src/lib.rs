//! Every port in process, over one shared state, seeded: what the simulation runs on.
//!
//! An operation is delay, effect, delay, answer: the effect is one step under one lock, the delays are drawn from the
//! seed and waited for on tokio's timers, so that whoever is dropped at an await has had the effect or has not.
//! [`limits::InProcessLimits`] takes no such delays and also serves in production, where there is no Redis.

mod bus;
mod catalog;
mod chance;
mod changes;
mod consumer;
mod dead_letters;
mod deliveries;
mod event;
pub mod faults;
mod items;
pub mod limits;
mod mail;
mod mailbox;
mod memory;
mod shared;
mod subscriptions;
mod topology;

pub use chance::{PausedClock, SeededEntropy, epoch};
pub use event::{Event, Recorded, Recorder};
pub use mail::TakenMail;
pub use memory::Memory;
pub use shared::{Options, Part};
