//! The mailer over ports in memory, under a paused clock: what it plans, sends, retries and gives up, and what becomes
//! of it when anything around it goes away.
#![expect(clippy::unwrap_used, reason = "a test fails by it")]

mod expansion;
mod mails;
mod outages;
mod over_smtp;
mod post_office;
mod sending;
mod shutdown;
mod traces;
mod world;
