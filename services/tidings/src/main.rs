//! The one program.

use std::process::ExitCode;

mod admin;
mod chance;
mod http;
mod profile;
mod settings;
mod telemetry;

fn main() -> ExitCode {
    ExitCode::SUCCESS
}
