//! The loops of the runtime under a paused clock, on doubles that keep a log of what was asked of them.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without is a failure of the test")]

mod consume;
mod doubles;
mod leases;
mod pause;
mod redrive;
mod reopen;
mod safety_net;
mod stop;
mod supervise;
mod traces;
