//! Runs seeds of the simulation and says what they come to.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool talks to its terminal")]

use std::process::ExitCode;

use clap::Parser;

/// The four services on one memory under a paused clock, seed by seed.
#[derive(Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 500)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// This one only, with everything that happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Only the hash and the seed of each, a line each.
    #[arg(long)]
    hashes: bool,
    /// Seeds that run at once.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(seed) = arguments.seed {
        let run = tidings_simulation::run(seed, None, None);
        println!("{}", run.story());
        return end(&run.violations, || {
            eprintln!("{}", run.failure());
        });
    }
    let summary = tidings_simulation::run_all(arguments.from, arguments.seeds, arguments.threads, &|run| {
        if arguments.hashes {
            println!("{} {:016x}", run.seed, run.hash);
        }
        if !run.violations.is_empty() {
            eprintln!("{}", run.failure());
        }
    });
    if !arguments.hashes {
        println!("{summary}");
    }
    end(&summary.failed, || eprintln!("failed seeds: {:?}", summary.failed))
}

fn end<T>(wrong: &[T], say: impl FnOnce()) -> ExitCode {
    if wrong.is_empty() {
        return ExitCode::SUCCESS;
    }
    say();
    ExitCode::FAILURE
}
