//! A server's process: started, signalled, waited for. What it prints goes to a file that a failed start shows.
#![expect(clippy::disallowed_methods, reason = "tests' servers are processes: nothing here is deterministic")]

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::guardian::{Guardian, signal, signal_family};

/// How long a server may take to start or to stop. Long: many start at once on a small machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// How long between two looks at what cannot be waited for.
pub(crate) const POLL: Duration = Duration::from_millis(40);

/// A process of a server, and the folder that it lives in.
pub(crate) struct Process {
    name: &'static str,
    guardian: Guardian,
    child: Mutex<Option<Child>>,
    helpers: Mutex<Vec<Child>>,
}

impl Process {
    /// Nothing runs yet.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, guardian: Guardian::new(name), child: Mutex::new(None), helpers: Mutex::default() }
    }

    /// The folder for data and settings. It goes with the process.
    pub(crate) fn folder(&self) -> &Path {
        self.guardian.folder()
    }

    /// The file with what it printed.
    pub(crate) fn log(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// A command for the server that [`Process::start`] takes.
    pub(crate) fn command(&self, program: &Path) -> Command {
        self.guardian.command(self.name, program)
    }

    /// A command for a helper beside the server, such as a daemon that it needs; ended with it.
    pub(crate) fn spawn_beside(&self, name: &str, program: &Path, prepare: impl FnOnce(&mut Command)) {
        let mut command = self.guardian.command(name, program);
        prepare(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child =
            command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        self.helpers.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    }

    /// Starts `command` and waits until `is_ready`. Panics with what it printed if it ends or takes too long.
    pub(crate) fn start(&self, mut command: Command, is_ready: impl Fn() -> bool) {
        let mut held = self.lock();
        assert!(held.is_none(), "{} runs already", self.name);
        let log =
            OpenOptions::new().create(true).append(true).open(self.log()).expect("a log can be written");
        let errors = log.try_clone().expect("a file can be opened twice");
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", self.name));
        let began = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                self.guardian.forget(self.name);
                panic!("{} ended with {status} instead of starting:\n{}", self.name, self.printed());
            }
            if is_ready() {
                break;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{} was not ready after {PATIENCE:?}:\n{}",
                self.name,
                self.printed()
            );
            std::thread::sleep(POLL);
        }
        *held = Some(child);
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.lock().as_ref().map_or_else(|| panic!("{} does not run", self.name), Child::id)
    }

    /// Sends a signal to the process alone.
    pub(crate) fn signal(&self, name: &str) {
        signal(name, self.id());
    }

    /// Sends a signal to the process and all that descend from it.
    pub(crate) fn signal_family(&self, name: &str) {
        signal_family(name, self.id());
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&self) -> ExitStatus {
        let mut held = self.lock();
        let child = held.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name));
        let began = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be asked") {
                break status;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "{} did not end within {PATIENCE:?}:\n{}",
                self.name,
                self.printed()
            );
            std::thread::sleep(POLL);
        };
        self.guardian.forget(self.name);
        *held = None;
        status
    }

    /// Kills it with all that descend from it. Nothing if it does not run.
    pub(crate) fn kill(&self) {
        if self.lock().is_some() {
            self.signal_family("KILL");
            self.wait();
        }
    }

    /// The end of what it printed.
    pub(crate) fn printed(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(self.log()).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let helpers = self.helpers.get_mut().unwrap_or_else(PoisonError::into_inner).drain(..);
        for mut child in child.into_iter().chain(helpers) {
            signal_family("KILL", child.id());
            let _ = child.wait();
        }
    }
}
