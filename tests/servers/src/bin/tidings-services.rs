//! A set of servers that stays until it is taken down: what `cargo xtask services` starts.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

use std::{env, path::PathBuf, process::ExitCode};

use tidings_servers::set::{self, Set};

const USAGE: &str = "tidings-services up|down|env|hold --folder FOLDER [--name NAME]";

fn main() -> ExitCode {
    match run(env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<(), String> {
    let mut arguments = arguments.into_iter();
    let (mut command, mut folder, mut name) = (None, None, "default".to_owned());
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--folder" => folder = arguments.next().map(PathBuf::from),
            "--name" => name = arguments.next().ok_or(USAGE)?,
            _ if command.is_none() => command = Some(argument),
            _ => return Err(USAGE.to_owned()),
        }
    }
    let set = Set::new(&folder.ok_or(USAGE)?, &name)?;
    match command.as_deref() {
        Some("up") => {
            let program = env::current_exe().map_err(|error| format!("cannot find myself: {error}"))?;
            for name in set::given() {
                eprintln!("{name} is set: the set takes that server and starts none of its own");
            }
            print!("{}", set.up(&program)?);
            Ok(())
        }
        Some("down") => set.down(),
        Some("env") => {
            print!("{}", set.env()?);
            Ok(())
        }
        Some("hold") => set.hold(),
        _ => Err(USAGE.to_owned()),
    }
}
