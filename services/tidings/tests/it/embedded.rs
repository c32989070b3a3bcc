//! The profile `embedded`: one process, one file.

mod bad_input;
mod crashes;
mod disk;
mod lifecycle;
mod mail_server;
mod metrics;
mod pipeline;
mod replay;
mod smtp;
mod trace;
