//! The cdc-watcher on every port in memory, under a paused clock.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without is a failure of the test")]

mod faults;
mod gap;
mod publish;
mod recovery;
mod redrive;
mod replay;
mod setup;
mod takeover;
mod traces;
