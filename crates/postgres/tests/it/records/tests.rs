//! The records on real servers.

mod concurrent;
mod foreign;
mod limit;
mod provisioning;
mod retention;
mod rig;
mod servers;
mod tls;
