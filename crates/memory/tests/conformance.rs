//! The suites on memory.
fn main() {}
