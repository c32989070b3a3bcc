//! The demo's own server: this same program as a child process.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::{Instant, timeout},
};

use crate::cli::output::Failure;

/// How long a start may take.
const START: Duration = Duration::from_secs(30);

/// A server in a folder. Dropped, it is killed.
pub(super) struct Server {
    program: PathBuf,
    folder: PathBuf,
    url: String,
    addr: String,
    child: Option<Child>,
}

impl Server {
    /// One that is not started yet.
    pub(super) fn new(folder: PathBuf) -> Result<Self, Failure> {
        let program = std::env::current_exe().map_err(Failure::refused)?;
        // The first start takes a free port, every later one the same.
        Ok(Self { program, folder, url: String::new(), addr: "127.0.0.1:0".to_owned(), child: None })
    }

    /// Where it listens, once it was started.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Starts it and waits until it is ready; how long that took.
    pub(super) async fn start(&mut self) -> Result<Duration, Failure> {
        let ready_file = self.folder.join("ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let log = std::fs::File::options().create(true).append(true).open(self.folder.join("log"));
        let mut command = Command::new(&self.program);
        // Settings of the person's own server are not this one's.
        for (name, _) in std::env::vars_os() {
            let name_text = name.to_string_lossy();
            if name_text.starts_with("TIDINGS_") || name_text.starts_with("SMTP_URL") {
                command.env_remove(&name);
            }
        }
        let began = Instant::now();
        let child = command
            .args(["up", "--ready-file"])
            .arg(&ready_file)
            .current_dir(&self.folder)
            .env("TIDINGS_HTTP_ADDR", &self.addr)
            .env("TIDINGS_ADMIN_ADDR", "127.0.0.1:0")
            .env("TIDINGS_DATA_DIR", self.folder.join("data"))
            // A mail that was under way at a kill is sent again when its lease is over: here that is to be seen soon.
            .env("TIDINGS_MAILER_LEASE_MS", "5000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::from(log.map_err(Failure::refused)?))
            .kill_on_drop(true)
            .spawn();
        let child = self.child.insert(child.map_err(Failure::refused)?);
        // The first line of its banner comes when it is ready, after the file; the end of its output, when it has ended.
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        match timeout(START, stdout.read_line(&mut line)).await {
            Ok(Ok(1..)) => {}
            Err(_) => return Err(Failure::refused("the demo's server is not ready in time")),
            Ok(_) => {
                let log = std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
                return Err(Failure::refused(format!("the demo's server has ended:\n{log}")));
            }
        }
        let took = began.elapsed();
        let ready = std::fs::read_to_string(&ready_file).map_err(Failure::refused)?;
        let ready: Value = serde_json::from_str(&ready).map_err(Failure::refused)?;
        ready["url"].as_str().unwrap_or_default().clone_into(&mut self.url);
        self.addr = self.url.trim_start_matches("http://").to_owned();
        Ok(took)
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self) -> Result<(), Failure> {
        match &mut self.child {
            Some(child) => child.kill().await.map_err(Failure::refused),
            None => Ok(()),
        }
    }
}
