//! The records on real servers.

mod concurrent;
mod foreign;
mod provisioning;
mod rig;
mod servers;
mod tls;
