//! The profile `selfhosted`: four processes of the real program on real servers.

mod pipeline;
mod process;
mod servers;
mod stack;
mod start;
