//! The simulation: the four real services on one memory in one current-thread runtime under a paused clock. A seed decides
//! who does what, what goes wrong and where processes crash; in the end everything comes to rest, and the promises of
//! DESIGN are held against what happened. The same seed is the same run, event by event.

mod clients;
mod door;
mod faults;
mod invariants;
mod ledger;
mod links;
mod mutants;
mod plan;
mod process;
mod rest;
mod role;
mod run;
mod schedule;
mod summary;
mod wall;
mod world;

pub use faults::Kind;
pub use invariants::Violation;
pub use mutants::Mutant;
pub use plan::Weather;
pub use run::{Run, run, run_all};
pub use summary::Summary;
