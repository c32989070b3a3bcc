//! The real program, driven from the outside: HTTP, mail, signals, files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::disallowed_types, reason = "tests are clients and servers of their own")]

mod harness;

mod command_line;
mod demo;
mod embedded;
mod selfhosted;
