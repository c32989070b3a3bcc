//! The one program.

mod admin;
mod app;
mod banner;
mod chance;
mod cli;
mod compose;
mod demo;
mod http;
mod operate;
mod profile;
mod settings;
mod signals;
mod telemetry;

fn main() -> std::process::ExitCode {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    cli::run()
}
