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
    for mut command in commands(&asked, &missing)? {
        let status = command.status().context("start cargo test")?;
        if !status.success() {
            bail!("cargo test ended with {status}");
        }
    }
    if missing.is_empty() {
        let which = if asked.rest.is_empty() { "all tests" } else { "the tests that were asked for" };
        println!("{which} ran and passed");
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

/// What to run: everything at once, then each adapter whose conformance tests have to be left out.
fn commands(asked: &Asked<'_>, missing: &[&Program]) -> anyhow::Result<Vec<Command>> {
    if asked.rest.iter().any(|argument| *argument == "-p" || argument.starts_with("--package")) {
        // Whoever names packages gets these, whatever they need.
        return Ok(vec![command(&[], asked, missing)]);
    }
    // Those tests do with a server whose address is given.
    let without_server = missing.iter().filter(|program| !program.is_given());
    let apart: Vec<&str> = without_server.filter_map(|program| program.conformance).collect();

    let mut all = vec!["--workspace".to_owned()];
    for package in &apart {
        all.extend(["--exclude".to_owned(), (*package).to_owned()]);
    }
    let mut runs = vec![all];
    for package in apart {
        let mut rest = vec!["--package".to_owned(), package.to_owned(), "--lib".to_owned()];
        for target in targets_without_conformance(package)? {
            rest.extend(["--test".to_owned(), target]);
        }
        runs.push(rest);
    }
    Ok(runs.iter().map(|selection| command(selection, asked, missing)).collect())
}

/// `cargo test` for a selection, without the tests that need what is missing.
fn command(selection: &[String], asked: &Asked<'_>, missing: &[&Program]) -> Command {
    let mut command = cargo();
    command.args(["test", "--locked"]).args(selection).args(&asked.rest);
    if let Some(servers) = asked.servers {
        command.env("TIDINGS_TEST_SERVERS", servers);
    }
    command.arg("--");
    for program in missing {
        command.args(["--skip", program.marker]);
    }
    command
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(missing: &[&Program]) -> Vec<String> {
        let commands = commands(&Asked::default(), missing).expect("the adapters' folders can be read");
        let arguments = |command: &Command| {
            command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        commands.iter().map(|command| arguments(command).join(" ")).collect()
    }

    #[test]
    fn a_machine_with_all_runs_all_at_once() {
        assert_eq!(lines(&[]), ["test --locked --workspace --"]);
    }

    #[test]
    fn without_a_server_only_its_own_tests_are_left_out() {
        let redis = PROGRAMS.iter().find(|program| program.name == "Redis").expect("it is listed");
        let curl = PROGRAMS.iter().find(|program| program.name == "curl").expect("it is listed");
        let skip = format!("--skip {} --skip {}", redis.marker, curl.marker);
        let apart = "--package tidings-redis --lib --test it";
        let expected = if redis.is_given() {
            vec![format!("test --locked --workspace -- {skip}")]
        } else {
            vec![
                format!("test --locked --workspace --exclude tidings-redis -- {skip}"),
                format!("test --locked {apart} -- {skip}"),
            ]
        };
        assert_eq!(lines(&[redis, curl]), expected);
    }

    #[test]
    fn images_are_asked_for_by_a_variable() {
        let arguments = ["--servers", "images", "--package", "tidings-redis"].map(str::to_owned);
        let asked = parse(&arguments).expect("these are arguments");
        let commands = commands(&asked, &[]).expect("nothing is missing");
        assert_eq!(commands.len(), 1, "only the package that was named");
        let variables: Vec<_> = commands[0].get_envs().collect();
        assert_eq!(variables, [("TIDINGS_TEST_SERVERS".as_ref(), Some("images".as_ref()))]);
        assert!(parse(&["--servers".to_owned(), "clouds".to_owned()]).is_err());
    }
}
