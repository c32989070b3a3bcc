//! The simulation in CI: seeds that hold, the same run twice, and planted bugs that are caught.

mod determinism;
mod mutants;
mod seeds;
