//! A server in a container of Docker's, where this machine has no programs of its own or a test run asks for images.
#![expect(clippy::disallowed_methods, reason = "tests' servers are processes: nothing here is deterministic")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use crate::{
    guardian::Guardian,
    process::{PATIENCE, POLL},
    program,
};

/// A container, with a folder of settings that it sees. Its data lies in a volume that lives as long as it does.
pub(crate) struct Container {
    guardian: Guardian,
    docker: PathBuf,
    image: String,
    /// Docker's name for it: the folder's.
    name: String,
    made: AtomicBool,
}

impl Container {
    /// Nothing runs yet.
    pub(crate) fn new(what: &str, image: &str) -> Self {
        let guardian = Guardian::new(what);
        let name = guardian.folder().file_name().expect("a folder of ours has a name");
        let name = name.to_string_lossy().into_owned();
        // The guardian removes what this names.
        fs::write(guardian.folder().join("container"), &name).expect("a folder of ours can be written");
        let docker = program::find("docker", &[]).expect("whoever asks for a container saw Docker answer");
        Self { guardian, docker, image: image.to_owned(), name, made: AtomicBool::new(false) }
    }

    /// Whether an engine answers here.
    pub(crate) fn can_run() -> bool {
        Command::new("docker")
            .arg("info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// The image that it is made of.
    pub(crate) fn image(&self) -> &str {
        &self.image
    }

    /// The folder for settings.
    pub(crate) fn folder(&self) -> &Path {
        self.guardian.folder()
    }

    /// Starts it and waits until `is_ready`. The first time it is made with `options` of `docker run` and the image's `arguments`.
    pub(crate) fn start(&self, options: &[String], arguments: &[String], is_ready: impl Fn() -> bool) {
        if self.made.swap(true, Ordering::SeqCst) {
            self.docker(&["start", &self.name]);
        } else {
            // Killed with us: a container must not come to be after the guardian looked for it.
            let mut command = self.guardian.command("docker", &self.docker);
            command.args(["run", "--detach", "--name", &self.name, "--hostname", "localhost"]);
            program::run(command.args(options).arg(&self.image).args(arguments), "");
            self.guardian.forget("docker");
        }
        let began = Instant::now();
        while !is_ready() {
            assert!(
                self.is_running() && began.elapsed() < PATIENCE,
                "{} did not start:\n{}",
                self.name,
                self.printed()
            );
            std::thread::sleep(POLL);
        }
    }

    fn is_running(&self) -> bool {
        self.docker(&["inspect", "--format", "{{.State.Running}}", &self.name]).trim() == "true"
    }

    /// Sends a signal, named without SIG, to the server.
    pub(crate) fn signal(&self, name: &str) {
        self.docker(&["kill", "--signal", name, &self.name]);
    }

    /// Stops all its processes where they stand.
    pub(crate) fn freeze(&self) {
        self.docker(&["pause", &self.name]);
    }

    /// Lets them go on.
    pub(crate) fn thaw(&self) {
        self.docker(&["unpause", &self.name]);
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&self) {
        self.docker(&["wait", &self.name]);
    }

    /// Kills it with all its processes. Nothing if it does not run.
    pub(crate) fn kill(&self) {
        if self.is_running() {
            self.docker(&["kill", &self.name]);
            self.wait();
        }
    }

    /// A command for a program of the image's, in the container.
    pub(crate) fn tool(&self, name: &str) -> Command {
        let mut command = Command::new(&self.docker);
        command.args(["exec", "--interactive", &self.name, name]);
        command
    }

    /// The end of what it printed.
    pub(crate) fn printed(&self) -> String {
        let output = Command::new(&self.docker).args(["logs", "--tail", "40", &self.name]).output();
        output.map_or_else(
            |error| error.to_string(),
            |output| {
                [output.stdout, output.stderr]
                    .map(|text| String::from_utf8_lossy(&text).into_owned())
                    .concat()
            },
        )
    }

    fn docker(&self, arguments: &[&str]) -> String {
        program::run(Command::new(&self.docker).args(arguments), "")
    }
}
