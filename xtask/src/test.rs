//! `cargo xtask test`: every test of the workspace, and an honest last line.

use std::{fs, process::Command};

use anyhow::{Context as _, bail};

use crate::{
    cargo,
    programs::{self, PROGRAMS, Program},
    root,
};

/// What the command line asks for.
#[derive(Default)]
struct Asked<'a> {
    install: bool,
    /// `programs` or `images`.
    servers: Option<&'a str>,
    rest: Vec<&'a String>,
}

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let asked = parse(arguments)?;
    let missing = missing(&asked)?;
    // Conformance tests take the server whose address is given; those that end theirs need one of their own.
    let apart: Vec<&str> = missing
        .iter()
        .filter(|program| !program.is_given())
        .filter_map(|program| program.conformance)
        .collect();

    let mut command = cargo();
    command.args(["test", "--workspace", "--locked"]);
    for package in &apart {
        command.args(["--exclude", package]);
    }
    finish(command, &asked, &missing)?;
    for package in &apart {
        let mut command = cargo();
        command.args(["test", "--locked", "--package", package, "--lib"]);
        for target in targets_without_conformance(package)? {
            command.args(["--test", &target]);
        }
        finish(command, &asked, &missing)?;
    }

    if missing.is_empty() {
        println!("all tests ran and passed");
    } else {
        let names: Vec<&str> = missing.iter().map(|program| program.name).collect();
        println!(
            "passed; left out: the tests that need {}. `cargo xtask test --install` adds them",
            names.join(", ")
        );
    }
    Ok(())
}

fn parse(arguments: &[String]) -> anyhow::Result<Asked<'_>> {
    let mut asked = Asked::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--install" => asked.install = true,
            "--servers" => match arguments.next().map(String::as_str) {
                Some(servers @ ("programs" | "images")) => asked.servers = Some(servers),
                _ => bail!("--servers takes programs (of this machine) or images (Docker's)"),
            },
            _ => asked.rest.push(argument),
        }
    }
    Ok(asked)
}

/// The programs that tests have to go without, after an install if that was asked for.
fn missing(asked: &Asked<'_>) -> anyhow::Result<Vec<&'static Program>> {
    let images = asked.servers == Some("images");
    if images && !programs::docker_answers() {
        bail!("no Docker engine answers: --servers images runs the tests against the official images");
    }
    let mut missing: Vec<&Program> = PROGRAMS
        .iter()
        .filter(|program| {
            let comes_as_image = images && program.is_server();
            !comes_as_image && !program.is_installed()
        })
        .collect();
    if asked.install && !missing.is_empty() {
        if let Err(error) = programs::install(&missing) {
            // Not Debian, or not root: images do for the servers, and only for them.
            if !(missing.iter().all(|program| program.is_server()) && programs::docker_answers()) {
                return Err(error);
            }
        }
        missing.retain(|program| !program.is_installed());
    }
    if asked.servers.is_none()
        && missing.iter().any(|program| program.is_server())
        && programs::docker_answers()
    {
        missing.retain(|program| !program.is_server());
    }
    if asked.install
        && let Some(program) = missing.first()
    {
        bail!("{} was installed and still does not run", program.name);
    }
    Ok(missing)
}

/// Runs `cargo test` without the tests that need what is missing.
fn finish(mut command: Command, asked: &Asked<'_>, missing: &[&Program]) -> anyhow::Result<()> {
    if let Some(servers) = asked.servers {
        command.env("TIDINGS_TEST_SERVERS", servers);
    }
    command.args(&asked.rest).arg("--");
    for program in missing {
        command.args(["--skip", program.marker]);
    }
    let status = command.status().context("start cargo test")?;
    if !status.success() {
        bail!("cargo test ended with {status}");
    }
    Ok(())
}

/// The integration tests of an adapter but for its conformance tests.
fn targets_without_conformance(package: &str) -> anyhow::Result<Vec<String>> {
    let folder = package.strip_prefix("tidings-").context("our packages' names begin with ours")?;
    let folder = root().join("crates").join(folder).join("tests");
    let entries = fs::read_dir(&folder).with_context(|| format!("read {}", folder.display()))?;
    let mut targets = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("read {}", folder.display()))?.path();
        let is_target =
            path.join("main.rs").is_file() || path.extension().is_some_and(|ending| ending == "rs");
        let name = path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if is_target && name != "conformance" {
            targets.push(name);
        }
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}
