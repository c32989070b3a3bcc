//! A server that runs: a process of this machine, or a container.
#![expect(clippy::disallowed_methods, reason = "tests choose their servers by a variable")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::{container::Container, process::Process, program};

/// Says which servers tests run against: `programs` of this machine, or `images` of Docker's. Unset: programs where they are
/// installed, else images.
const CHOICE: &str = "TIDINGS_TEST_SERVERS";

/// Where a server comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The variable that names its address.
    Address(&'static str),
    /// This machine's programs, in the folder.
    Programs(PathBuf),
    /// Docker's image of that name.
    Image(String),
}

/// What a kind of server is made of.
pub(crate) struct Kind {
    /// What people call it.
    pub(crate) name: &'static str,
    /// The program that says it is installed.
    pub(crate) program: &'static str,
    /// Where that lies, if not in `PATH`.
    pub(crate) folders: Vec<PathBuf>,
    /// The official image.
    pub(crate) image: &'static str,
}

/// One that was made and may run.
pub(crate) enum Server {
    /// A process, and the folder of the programs.
    Program(Process, PathBuf),
    /// A container.
    Image(Container),
}

impl Server {
    /// Makes the folder of one; starts nothing. `what` becomes part of names.
    pub(crate) fn new(what: &'static str, kind: &Kind) -> Self {
        let choice = std::env::var(CHOICE).unwrap_or_default();
        assert!(
            ["", "programs", "images"].contains(&choice.as_str()),
            "{CHOICE} is {choice:?}: neither programs nor images"
        );
        let program = program::find(kind.program, &kind.folders).filter(|_| choice != "images");
        if let Some(program) = program {
            let folder = program.parent().expect("a program lies in a folder").to_owned();
            return Self::Program(Process::new(what), folder);
        }
        assert!(
            choice != "programs" && Container::can_run(),
            "this test needs {}: install it (`cargo xtask test --install` does on Debian) or start Docker",
            kind.name,
        );
        Self::Image(Container::new(what, kind.image))
    }

    /// Where it comes from.
    pub(crate) fn source(&self) -> Source {
        match self {
            Self::Program(_, folder) => Source::Programs(folder.clone()),
            Self::Image(container) => Source::Image(container.image().to_owned()),
        }
    }

    /// The folder that goes with the server.
    pub(crate) fn folder(&self) -> &Path {
        match self {
            Self::Program(process, _) => process.folder(),
            Self::Image(container) => container.folder(),
        }
    }

    /// Sends a signal, named without SIG, to the server and waits for its end.
    pub(crate) fn stop(&self, signal: &str) {
        match self {
            Self::Program(process, _) => {
                process.signal(signal);
                process.wait();
            }
            Self::Image(container) => {
                container.signal(signal);
                container.wait();
            }
        }
    }

    /// Kills it with all its processes. Nothing if it does not run.
    pub(crate) fn kill(&self) {
        match self {
            Self::Program(process, _) => process.kill(),
            Self::Image(container) => container.kill(),
        }
    }

    /// Stops all its processes where they stand.
    pub(crate) fn freeze(&self) {
        match self {
            Self::Program(process, _) => process.signal_family("STOP"),
            Self::Image(container) => container.freeze(),
        }
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        match self {
            Self::Program(process, _) => process.signal_family("CONT"),
            Self::Image(container) => container.thaw(),
        }
    }

    /// The end of what it printed.
    pub(crate) fn printed(&self) -> String {
        match self {
            Self::Program(process, _) => process.printed(),
            Self::Image(container) => container.printed(),
        }
    }

    /// A command for a program that belongs to the server.
    pub(crate) fn tool(&self, name: &str) -> Command {
        match self {
            Self::Program(_, folder) => Command::new(folder.join(name)),
            Self::Image(container) => container.tool(name),
        }
    }
}
