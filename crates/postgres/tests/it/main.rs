//! What the suites do not ask: servers that stop, die and freeze, other programs that write, and what a hand can break.

#![expect(clippy::disallowed_methods, reason = "the tests' own clock and chance, and their tasks")]
#![expect(clippy::unwrap_used, reason = "tests and what only they call")]

#[path = "changes/tests.rs"]
mod changes_with_postgres;
#[path = "records/tests.rs"]
mod records_with_postgres;
