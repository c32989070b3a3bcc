//! The project's own commands: `cargo xtask help`. Builds in seconds; what is heavy lives in the packages that it starts.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]
#![expect(clippy::disallowed_methods, reason = "cargo's folders are in the environment")]

mod programs;
mod test;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, bail};

const HELP: &str = "\
cargo xtask test [--install] [ARGS...]  run every test; --install gets the programs that they need and the machine lacks
                                        (Debian's packages, as root); without it such tests are left out and named.
                                        --servers programs|images: this machine's, or the official images in Docker;
                                        without it whichever is here. DATABASE_URL, AMQP_URL, REDIS_URL name running ones
cargo xtask services up|down|env [--name N]
                                        PostgreSQL, RabbitMQ and Redis that stay until `down`; `env` prints their addresses
                                        as lines for the shell: eval \"$(cargo xtask services env)\"
cargo xtask bench embedded [ARGS...]    measure the release binary beside floors of the same run; `selfhosted` starts
                                        four processes and private PostgreSQL, RabbitMQ and Redis; --quick is two minutes
cargo xtask simulate [--seeds N] [...]  run the simulation: N seeds, or --seed S to replay one
cargo xtask openapi                     write services/api/openapi.json anew
cargo xtask help                        this page";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (command, rest) =
        arguments.split_first().map_or(("help", arguments), |(first, rest)| (first.as_str(), rest));
    match command {
        "test" => test::run(rest),
        "services" => services(rest),
        "bench" => package(&["run", "--release", "--package", "tidings-bench", "--"], rest),
        "simulate" => package(&["run", "--release", "--package", "tidings-simulation", "--"], rest),
        "openapi" => openapi(),
        "help" | "--help" | "-h" => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("no command {other:?}\n{HELP}"),
    }
}

/// Runs cargo with `arguments` and then `rest`.
fn package(arguments: &[&str], rest: &[String]) -> anyhow::Result<()> {
    let status = cargo().args(arguments).args(rest).status().context("start cargo")?;
    if !status.success() {
        bail!("cargo {} ended with {status}", arguments.join(" "));
    }
    Ok(())
}

fn services(rest: &[String]) -> anyhow::Result<()> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let status = cargo()
        .args([
            "run",
            "--quiet",
            "--locked",
            "--package",
            "tidings-servers",
            "--bin",
            "tidings-services",
            "--",
        ])
        .args(rest)
        .arg("--folder")
        .arg(target.join("services"))
        .status()
        .context("start cargo")?;
    if !status.success() {
        bail!("services up|down|env [--name NAME] ended with {status}");
    }
    Ok(())
}

fn openapi() -> anyhow::Result<()> {
    let output = cargo()
        .args(["run", "--quiet", "--package", "tidings-api", "--example", "openapi"])
        .output()
        .context("start cargo")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    std::fs::write("services/api/openapi.json", output.stdout).context("write services/api/openapi.json")
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root").to_owned()
}

fn cargo() -> Command {
    Command::new(env!("CARGO"))
}
