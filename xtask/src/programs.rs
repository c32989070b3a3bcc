//! Programs that some tests need: who has them, which Debian package brings them, which tests go without.
#![expect(clippy::disallowed_methods, reason = "where programs lie is in the environment")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};

/// A program that tests run against.
pub(crate) struct Program {
    /// What people call it.
    pub(crate) name: &'static str,
    /// How to see that it is here.
    check: Check,
    /// Debian's package.
    package: &'static str,
    /// The part of a test's name that says it needs the program.
    pub(crate) marker: &'static str,
}

enum Check {
    /// The command that ends with 0 where it is installed.
    Ends(&'static [&'static str]),
    /// A server of `tests/servers`: the program, a folder where it may lie below (one level of versions between). Where it is
    /// missing, an image of Docker's does.
    Server { program: &'static str, below: &'static [&'static str] },
}

/// All of them.
pub(crate) const PROGRAMS: [Program; 8] = [
    Program {
        name: "the sqlite3 shell",
        check: Check::Ends(&["sqlite3", "--version"]),
        package: "sqlite3",
        marker: "sqlite3_shell",
    },
    Program {
        name: "curl",
        check: Check::Ends(&["curl", "--version"]),
        package: "curl",
        marker: "with_curl",
    },
    Program {
        name: "aiosmtpd (a mail server)",
        check: Check::Ends(&["/usr/bin/python3", "-c", "import aiosmtpd"]),
        package: "python3-aiosmtpd",
        marker: "with_aiosmtpd",
    },
    Program {
        name: "pika (an AMQP client)",
        check: Check::Ends(&["/usr/bin/python3", "-c", "import pika"]),
        package: "python3-pika",
        marker: "with_pika",
    },
    Program {
        name: "psycopg2 (a PostgreSQL client)",
        check: Check::Ends(&["/usr/bin/python3", "-c", "import psycopg2"]),
        package: "python3-psycopg2",
        marker: "with_psycopg",
    },
    Program {
        name: "PostgreSQL",
        check: Check::Server {
            program: "initdb",
            below: &["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"],
        },
        package: "postgresql",
        marker: "with_postgres",
    },
    Program {
        name: "RabbitMQ",
        check: Check::Server {
            program: "rabbitmq-server",
            below: &["/usr/lib", "/opt/homebrew/opt", "/usr/local/opt"],
        },
        package: "rabbitmq-server",
        marker: "with_rabbitmq",
    },
    Program {
        name: "Redis",
        check: Check::Server { program: "redis-server", below: &["/opt/homebrew/opt", "/usr/local/opt"] },
        package: "redis-server",
        marker: "with_redis",
    },
];

impl Program {
    /// Whether it can be run here.
    pub(crate) fn is_installed(&self) -> bool {
        match &self.check {
            Check::Ends(command) => ends_well(command),
            Check::Server { program, below } => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                std::env::split_paths(&path)
                    .chain(below.iter().flat_map(|parent| programs_below(Path::new(parent))))
                    .any(|folder| folder.join(program).is_file())
            }
        }
    }

    /// Whether it is a server, which may come as an image too.
    pub(crate) fn is_server(&self) -> bool {
        matches!(self.check, Check::Server { .. })
    }
}

/// The folders `parent/*/bin` and `parent/*/sbin`.
fn programs_below(parent: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries.flat_map(|entry| ["bin", "sbin"].map(|folder| entry.path().join(folder))).collect()
}

/// Whether a Docker engine answers.
pub(crate) fn docker_answers() -> bool {
    ends_well(&["docker", "info"])
}

fn ends_well(command: &[&str]) -> bool {
    Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Gets the packages of `missing` from Debian, as root.
pub(crate) fn install(missing: &[&Program]) -> anyhow::Result<()> {
    let packages: Vec<&str> = missing.iter().map(|program| program.package).collect();
    println!("installing what tests need and this machine lacks: {}", packages.join(" "));
    apt(&["update", "--quiet"])?;
    apt(&[&["install", "--yes", "--quiet", "--no-install-recommends"], &packages[..]].concat())
}

fn apt(arguments: &[&str]) -> anyhow::Result<()> {
    let status = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Tests start servers of their own: the packages' services need not run.
        .env("RUNLEVEL", "1")
        .stdout(Stdio::null())
        .status()
        .context(
            "start apt-get: --install needs Debian or one of its children; elsewhere install them by hand",
        )?;
    if !status.success() {
        bail!("apt-get {} ended with {status}: run it as root", arguments.join(" "));
    }
    Ok(())
}
