//! The table stream on real servers.

mod basics;
mod rig;
