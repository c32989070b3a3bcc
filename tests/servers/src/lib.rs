//! Private servers and their faults, for tests: each listens on a free port of the loopback and belongs to one test.

pub mod authority;
pub mod smtp;
