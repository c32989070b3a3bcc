//! Rates, idempotency fingerprints and what was just accepted, on Redis (7 and newer), shared by every api.
//!
//! All of it may be lost at any time: while Redis is away the limits of the process itself are used, which are given by
//! whoever builds this.

mod limits;
mod options;

pub use limits::RedisLimits;
pub use options::Options;
