//! Faults survived, each under load and held against a ledger: what was answered with 202 is stored once, and mailed or a
//! dead letter; nothing else is; a mail comes twice only as often as an *unknown* was counted.
//!
//! Variables make runs longer: `TIDINGS_TEST_KILLS` (12), `TIDINGS_TEST_ROWS` (200000) of the large transaction,
//! `TIDINGS_TEST_SEED`.

mod broker;
mod chance;
mod consumer_timeout;
mod database;
mod frozen;
mod held_back;
mod hogs;
mod kills;
mod large;
mod ledger;
mod limits;
mod load;
mod mail;
mod nul;
mod slot;
mod unbound;

/// A number from the environment.
#[expect(clippy::disallowed_methods, reason = "whoever runs the tests says how long")]
fn number(variable: &str, unless_set: u64) -> u64 {
    std::env::var(variable).map_or(unless_set, |text| text.parse().unwrap())
}
