//! The table stream on real servers.

mod basics;
mod content;
mod faults;
mod gaps;
mod large;
mod metrics;
mod narrowed;
mod promotion;
mod rig;
mod standby;
mod tls;
