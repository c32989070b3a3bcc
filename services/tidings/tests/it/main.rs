//! The real program, driven from the outside: HTTP, mail, signals, files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod harness;

mod command_line;
mod embedded;
