//! The profile `selfhosted`: four processes of the real program on real servers.

mod faults;
mod foreign;
mod ledger;
mod logs;
mod mail_server;
mod metrics_of_servers;
mod operate;
mod pipeline;
mod process;
mod readiness;
mod scale;
mod servers;
mod sql;
mod stack;
mod start;
mod stop;
mod tls;
mod trace;
mod two_stacks;
