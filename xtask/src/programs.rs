//! Programs that some tests need: who has them, which Debian package brings them, which tests go without.

use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// A program that tests run against.
pub(crate) struct Program {
    /// What people call it.
    pub(crate) name: &'static str,
    /// The command that ends with 0 where it is installed.
    check: &'static [&'static str],
    /// Debian's package.
    package: &'static str,
    /// The part of a test's name that says it needs the program.
    pub(crate) marker: &'static str,
}

/// All of them.
pub(crate) const PROGRAMS: [Program; 3] = [
    Program {
        name: "the sqlite3 shell",
        check: &["sqlite3", "--version"],
        package: "sqlite3",
        marker: "sqlite3_shell",
    },
    Program { name: "curl", check: &["curl", "--version"], package: "curl", marker: "with_curl" },
    Program {
        name: "aiosmtpd (a mail server)",
        check: &["/usr/bin/python3", "-c", "import aiosmtpd"],
        package: "python3-aiosmtpd",
        marker: "with_aiosmtpd",
    },
];

impl Program {
    /// Whether it can be run here.
    pub(crate) fn is_installed(&self) -> bool {
        Command::new(self.check[0])
            .args(&self.check[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
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
