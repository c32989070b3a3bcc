//! Limits on a real Redis, and while it is away.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without is a failure of the test")]

mod log;
mod process;
mod with_redis;
