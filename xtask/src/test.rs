//! `cargo xtask test`: every test of the workspace, and an honest last line.

use anyhow::{Context as _, bail};

use crate::{
    cargo,
    programs::{self, PROGRAMS, Program},
};

pub(crate) fn run(arguments: &[String]) -> anyhow::Result<()> {
    let (flags, rest): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| *argument == "--install");
    let mut missing: Vec<&Program> = PROGRAMS.iter().filter(|program| !program.is_installed()).collect();
    if !flags.is_empty() && !missing.is_empty() {
        programs::install(&missing)?;
        missing.retain(|program| !program.is_installed());
        if let Some(program) = missing.first() {
            bail!("{} was installed and still does not run", program.name);
        }
    }
    let mut command = cargo();
    command.args(["test", "--workspace", "--locked"]).args(rest).arg("--");
    for program in &missing {
        command.args(["--skip", program.marker]);
    }
    let status = command.status().context("start cargo test")?;
    if !status.success() {
        bail!("cargo test ended with {status}");
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
