//! Every durable port on one SQLite file, and the built-in mail catcher.
//!
//! The file is `tidings.db` in the data folder: write-ahead log, `synchronous=FULL`. All our writes go through one writer
//! (`writer.rs`), which takes whatever waits as one transaction with one statement per kind of write and answers after the
//! commit. Reads go through a small pool and never hold the writer up. One server holds the folder (`lock.rs`); other
//! programs may write into the file, and what they put into `items` comes on the table stream like our own.
//!
//! A file is named after the port that it implements.

mod bus;
mod catalog;
mod changes;
mod connection;
mod consumer;
mod dead_letters;
mod deliveries;
mod dependency;
mod fault;
mod group;
mod items;
mod lock;
mod mail;
mod mailbox;
mod mime;
mod queue;
mod retention;
mod rows;
mod schema;
mod shared;
#[cfg(test)]
mod statements;
mod store;
mod subscriptions;
mod topology;
mod writer;

pub use store::{DATABASE_FILE, LOCK_FILE, Options, Store};
