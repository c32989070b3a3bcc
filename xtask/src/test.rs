//! `cargo xtask test`: every test of the workspace, and an honest last line.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::{
    cargo,
    programs::{self, PROGRAMS, Program},
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
    for mut command in commands(&asked, &missing) {
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

/// What to run: everything at once; without a server the program's own tests apart, where all of one module need every server and
/// other modules have its name too.
fn commands(asked: &Asked<'_>, missing: &[&Program]) -> Vec<Command> {
    let skips: Vec<&str> = missing.iter().map(|program| program.marker).collect();
    if asked.rest.iter().any(|argument| *argument == "-p" || argument.starts_with("--package")) {
        // Whoever names packages gets these.
        return vec![command(&[], asked, &skips)];
    }
    if !missing.iter().any(|program| program.is_server()) {
        return vec![command(&["--workspace"], asked, &skips)];
    }
    let with_module = [&skips[..], &["selfhosted::"]].concat();
    vec![
        command(&["--workspace", "--exclude", "tidings"], asked, &skips),
        command(&["--package", "tidings", "--bins"], asked, &skips),
        command(&["--package", "tidings", "--test", "it"], asked, &with_module),
    ]
}

/// `cargo test` for a selection, without the tests whose names hold one of `skips`.
fn command(selection: &[&str], asked: &Asked<'_>, skips: &[&str]) -> Command {
    let mut command = cargo();
    command.args(["test", "--locked"]).args(selection).args(&asked.rest);
    if let Some(servers) = asked.servers {
        command.env("TIDINGS_TEST_SERVERS", servers);
    }
    command.arg("--");
    for part in skips {
        command.args(["--skip", part]);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(missing: &[&str]) -> Vec<String> {
        let missing: Vec<&Program> =
            PROGRAMS.iter().filter(|program| missing.contains(&program.name)).collect();
        let arguments = |command: &Command| {
            command.get_args().map(|argument| argument.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        commands(&Asked::default(), &missing).iter().map(|command| arguments(command).join(" ")).collect()
    }

    #[test]
    fn a_machine_with_all_runs_all_at_once() {
        assert_eq!(lines(&[]), ["test --locked --workspace --"]);
    }

    #[test]
    fn tests_that_need_a_missing_program_are_left_out_by_name() {
        assert_eq!(lines(&["curl"]), ["test --locked --workspace -- --skip with_curl"]);
    }

    #[test]
    fn without_a_server_the_tests_of_the_four_processes_are_left_out_too() {
        assert_eq!(
            lines(&["Redis"]),
            [
                "test --locked --workspace --exclude tidings -- --skip with_redis",
                "test --locked --package tidings --bins -- --skip with_redis",
                "test --locked --package tidings --test it -- --skip with_redis --skip selfhosted::",
            ]
        );
    }

    #[test]
    fn images_are_asked_for_by_a_variable() {
        let arguments = ["--servers", "images", "--package", "tidings-redis"].map(str::to_owned);
        let asked = parse(&arguments).expect("these are arguments");
        let commands = commands(&asked, &[]);
        assert_eq!(commands.len(), 1, "only the package that was named");
        let variables: Vec<_> = commands[0].get_envs().collect();
        assert_eq!(variables, [("TIDINGS_TEST_SERVERS".as_ref(), Some("images".as_ref()))]);
        assert!(parse(&["--servers".to_owned(), "clouds".to_owned()]).is_err());
    }
}
