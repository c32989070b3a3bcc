//! The subscriber on every port in memory, under a paused clock.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without is a failure of the test")]

mod faults;
mod redrive;
mod retention;
mod setup;
mod store;
mod traces;
