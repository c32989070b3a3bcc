//! The profile `embedded`: one process, one file.

mod crashes;
mod lifecycle;
mod pipeline;
mod smtp;
mod trace;
