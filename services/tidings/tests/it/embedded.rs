//! The profile `embedded`: one process, one file.

mod bad_input;
mod crashes;
mod disk;
mod lifecycle;
mod mail_server;
mod metrics;
mod metrics_pushed;
mod pipeline;
mod replay;
mod smtp;
mod trace;
mod trace_events;
mod trace_lost;
mod trace_sampling;
mod trace_tls;
