//! The table stream on real servers.

mod basics;
mod faults;
mod gaps;
mod rig;
mod standby;
