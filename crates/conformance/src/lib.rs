//! One suite per port: what every adapter of it has to do, as named behaviours over a fixture.
//!
//! An adapter's `tests/conformance.rs` (`harness = false`) is an [`Adapter`] and a call of [`main`]:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     tidings_conformance::main(MyAdapter).exit_code()
//! }
//! ```
//!
//! Each behaviour is one test named `<suite>::<behaviour>` on an installation of its own. A behaviour that the adapter
//! cannot have is listed as ignored, with the adapter's reason in front of its name.

mod bus;
mod catalog;
mod changes;
mod consuming;
mod dead_letters;
mod deliveries;
mod fixture;
mod items;
mod limits;
mod mail;
mod mailbox;
mod planning;
mod runner;
mod samples;
mod subscriptions;
mod topology;

pub use fixture::{Adapter, Disturbance, Fixture, Need, OpenInsert, Ports, SentMail, Suite};
pub use runner::{main, main_of};
