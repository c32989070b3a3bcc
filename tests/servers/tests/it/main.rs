//! The servers do what their handles say.
#![expect(clippy::disallowed_types, reason = "tests of servers for tests: they own sockets")]

mod given;
mod postgres;
mod proxy;
mod rabbitmq;
mod redis;
mod set;
mod stream;
mod tls;
mod versions;
