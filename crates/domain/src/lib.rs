//! Values, rules and ports of Tidings.
//!
//! A *message* is posted to a topic, stored as an *item*, seen as a *change* on the table stream, published as a
//! *notification*, and mailed as one *delivery* per *recipient*; what cannot go on is a *dead letter*.
//!
//! No I/O, no vendor, no clock and no chance of its own: time comes from the [`ports::Clock`] port and randomness from
//! [`ports::Entropy`]. Rules are plain functions on values, so that every adapter decides the same.

pub mod address;
pub mod api_key;
pub mod attributes;
pub mod backoff;
pub mod dead_letter;
pub mod delivery;
pub mod error;
pub mod filter;
pub mod id;
pub mod idempotency;
pub mod item;
pub mod message;
pub mod notification;
pub mod page;
pub mod ports;
pub mod status;
pub mod subscription;
pub mod text;
pub mod time;
pub mod token;
pub mod topic;
pub mod trace_context;
pub mod wire;

pub use error::{Error, ErrorKind, Result};
