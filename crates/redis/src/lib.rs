//! Rates, idempotency fingerprints and what was just accepted, on Redis (7 and newer), shared by every api.
//!
//! All of it may be lost at any time, and every key expires. While Redis is away, for whatever reason (unreachable, too slow,
//! out of memory, a replica, loading, a login that it refuses), the limits of the process itself answer, which whoever builds
//! this gives along: accepting goes on, n apis allow n times the rate, and a key that is used for another body meanwhile is
//! found when the message is stored. The log says so once an outage, and the dependency is degraded with its reason.
//!
//! One server, or a primary behind an address that follows it. Redis Cluster is not supported: a script's keys lie in
//! several slots.
//!
//! | key | holds | expires after |
//! |---|---|---|
//! | `<namespace>:rate:<bucket>` | tokens, and the time that they were counted at | the time until it is full, and a minute |
//! | `<namespace>:fingerprint:<message id>` | SHA-256 of what was said under the idempotency key | 24 h; about 150 bytes |
//! | `<namespace>:accepted:<message id>` | milliseconds | 10 min; about 120 bytes |

mod dependency;
mod failure;
mod limits;
mod link;
mod metrics;
mod options;
mod server;

pub use limits::RedisLimits;
pub use options::Options;
