//! What the four services share: the consume loop with its retries, supervision, shutdown, health and telemetry.
//!
//! Knows ports and no vendor. Deterministic: time is tokio's timers and the [`tidings_domain::ports::Clock`], chance is
//! [`tidings_domain::ports::Entropy`], and every task lives in a `JoinSet` owned by the `run` that began it.

pub mod consume;
pub mod conventions;
pub mod handler;
pub mod health;
pub mod letter;
pub mod metrics;
pub mod redrive;
pub mod safety_net;
pub mod shutdown;
pub mod supervise;
pub mod telemetry;
