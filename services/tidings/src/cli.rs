//! The command line: what can be asked for, and the exit codes. 0 done, 1 refused, 2 usage, 3 not reachable.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    app, demo,
    profile::Role,
    settings::{self, Scope, Settings, Sources, faults::Faults, report},
    telemetry::Export,
};

mod client;
mod dead_letters;
mod health;
mod messages;
pub(crate) mod output;
mod provision;
mod publish;
mod recover;
mod replay;
mod subscriptions;

use self::output::{Failure, print};

/// Accept now, notify later: a message is taken at once, stored, and mailed to those who asked to hear of it.
#[derive(Debug, Parser)]
#[command(name = "tidings", version, arg_required_else_help = false)]
struct Cli {
    /// The settings file [default: tidings.toml, when it is there].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the services, all four where none is named. The same as no command at all.
    Up(Up),
    /// Publish a message.
    Publish(publish::Publish),
    /// Look at messages.
    Messages(messages::Messages),
    /// Look at and change who is subscribed.
    Subscriptions(subscriptions::Subscriptions),
    /// Look at what cannot go on, run it again or drop it.
    DeadLetters(dead_letters::DeadLetters),
    /// Make what the services need before they run.
    Provision(provision::Provision),
    /// Make the table stream's slot anew after a gap, and publish what was never notified.
    Recover(recover::Recover),
    /// Publish stored messages again as notifications.
    Replay(replay::Replay),
    /// Show the settings in force, and where each comes from.
    Config {
        /// Print JSON, for scripts.
        #[arg(long)]
        json: bool,
    },
    /// Ask a running server whether it is ready.
    Health(health::Health),
    /// Show a whole tour by itself, in a temporary folder and on free ports.
    Demo(demo::Demo),
    /// Print the version.
    Version,
}

#[derive(Debug, Default, Args)]
struct Up {
    /// Which services: api, subscriber, cdc-watcher, mailer.
    services: Vec<Role>,
    /// A file to write, as JSON, where the server listens and whether it is ready: once it listens, and again when it is
    /// ready. For scripts and tests.
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

/// Reads the command line, does what it says and gives the exit code.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => {
            // Help and the version go to stdout with code 0, usage to stderr with code 2. A closed pipe is no fault.
            let _ = told.print();
            return ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2));
        }
    };
    let sources = Sources { file: cli.config, variables: variables() };
    let answer = match cli.command.unwrap_or_else(|| Command::Up(Up::default())) {
        Command::Up(up) => app::run(&sources, &up.services, up.ready_file.as_deref()),
        Command::Publish(command) => block_on(command.run()),
        Command::Messages(command) => block_on(command.run()),
        Command::Subscriptions(command) => block_on(command.run()),
        Command::DeadLetters(command) => block_on(command.run()),
        Command::Provision(command) => command.run(&sources),
        Command::Recover(command) => command.run(&sources),
        Command::Replay(command) => command.run(&sources),
        Command::Config { json } => config(&sources, json),
        Command::Health(command) => block_on(command.run(&sources)),
        Command::Demo(command) => block_on(command.run()),
        Command::Version => print(&format!("tidings {}\n", env!("CARGO_PKG_VERSION"))),
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.tell(),
    }
}

/// What is in force is shown even where something is wrong with it; the faults follow.
fn config(sources: &Sources, json: bool) -> Result<(), Failure> {
    let mut faults = Faults::default();
    let layers = settings::layers(sources, &mut faults);
    print(&if json { format!("{:#}\n", report::json(&layers)) } else { report::text(&layers) })?;
    settings::check(layers, Scope::Serve(&[]), faults).map(drop).map_err(Failure::usage)
}

/// The settings of a command that works on the installation and serves nobody, and where its spans go.
fn operator(sources: &Sources) -> Result<(Settings, Export), Failure> {
    let mut faults = Faults::default();
    let export = Export::read(&sources.variables, &mut faults);
    let layers = settings::layers(sources, &mut faults);
    let settings = settings::check(layers, Scope::Operate(&[]), faults).map_err(Failure::usage)?;
    Ok((settings, export))
}

fn block_on(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(Failure::refused)?.block_on(command)
}

/// The environment, read here once for the settings; what is not Unicode is none of ours.
fn variables() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
