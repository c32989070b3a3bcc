//! Private servers and their faults, for tests: each listens on a free port of the loopback and belongs to one test.

mod container;
mod given;
mod guardian;
mod port;
mod process;
mod program;
mod server;

pub mod authority;
pub mod postgres;
pub mod proxy;
pub mod rabbitmq;
pub mod redis;
pub mod set;
pub mod smtp;
