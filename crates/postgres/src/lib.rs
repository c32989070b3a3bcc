//! Every record of Tidings on PostgreSQL (15 and newer), and the table stream by logical replication from a slot.
//!
//! Records go through a pool (`store.rs`); every write of one kind is one statement for its whole batch, ids sorted. The
//! table stream has connections of its own (`changes.rs` and its folder): a replication session that reads the slot, and
//! a plain one that looks at it. Nothing here makes schema, publication or slot but [`Store::provision`] and
//! [`Store::recover_slot`], which people call.
//!
//! A file is named after the port that it implements.

mod catalog;
mod changes;
mod connect;
mod dead_letters;
mod deliveries;
mod dependency;
mod fault;
mod group;
mod items;
mod options;
mod pool;
mod retention;
mod rows;
mod schema;
mod shared;
#[cfg(test)]
mod statements;
mod store;
mod subscriptions;

pub use changes::RecoveredSlot;
pub use options::{Options, StreamOptions};
pub use store::Store;
