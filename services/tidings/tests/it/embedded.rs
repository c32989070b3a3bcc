//! The profile `embedded`: one process, one file.

mod lifecycle;
mod pipeline;
mod smtp;
mod trace;
