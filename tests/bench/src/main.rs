//! `cargo xtask bench embedded|selfhosted`: starts the release binary, drives it over HTTP, and prints what it reaches beside
//! floors measured in the same run. The load generator, the mail sink and the servers share the machine.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a measuring program: real time, real sockets, a terminal to print on"
)]

mod chance;
mod embedded;
mod figures;
mod floors;
mod http;
mod latency;
mod load;
mod process;
mod selfhosted;
mod server;
mod sink;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Measures Tidings.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
    /// Measure this program instead of the release binary, which is built first.
    #[arg(long, global = true, value_name = "FILE")]
    program: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Bench {
    /// The embedded profile: one process on SQLite.
    Embedded(embedded::Options),
    /// The self-hosted profile: four processes on private PostgreSQL, RabbitMQ and Redis.
    Selfhosted(selfhosted::Options),
}

/// The release binary beside this one, built first when it is not there.
fn program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let program = own.with_file_name("tidings");
    let status = std::process::Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--package", "tidings", "--quiet"])
        .status()?;
    anyhow::ensure!(status.success() && program.exists(), "the release binary could not be built");
    Ok(program)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { bench, program: other } = Arguments::parse();
    let program = other.map_or_else(program, |other| Ok(other.canonicalize()?))?;
    match bench {
        Bench::Embedded(options) => embedded::run(&program, &options).await,
        Bench::Selfhosted(options) => selfhosted::run(&program, options).await,
    }
}
