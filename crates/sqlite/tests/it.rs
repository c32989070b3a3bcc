//! What the suites do not ask: the file itself, other programs that write into it, and disks that fail.

#![expect(clippy::disallowed_methods, reason = "the tests' own clock and chance")]
#![expect(clippy::unwrap_used, reason = "tests and what only they call")]

#[path = "it/disk.rs"]
mod disk;
#[path = "it/folder.rs"]
mod folder;
#[path = "it/foreign.rs"]
mod foreign;
#[path = "it/mailbox.rs"]
mod mailbox;
#[path = "it/neighbours.rs"]
mod neighbours;
#[path = "it/restart.rs"]
mod restart;
#[path = "it/retention.rs"]
mod retention;
#[path = "it/sqlite3_shell.rs"]
mod sqlite3_shell;
#[path = "it/values.rs"]
mod values;
