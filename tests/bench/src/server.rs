//! The servers under test: processes of the release binary as children.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::process::{self, Memory};

/// How long a server may take until it is ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Settings that belong to whoever runs the bench and not to the server under test.
const FOREIGN: [&str; 5] = ["TIDINGS_", "OTEL_", "SMTP_", "RABBITMQ_", "AWS_"];

/// A running `tidings`. Dropped, it is ended.
pub(crate) struct Server {
    child: Child,
    name: String,
    log: PathBuf,
    admin_url: String,
    /// Where its API listens, if it has one.
    pub(crate) address: SocketAddr,
    /// From exec to the first 200 of `/readyz`.
    pub(crate) ready: Duration,
}

impl Server {
    /// Starts `program up <services>` on free ports in `folder`, and waits until it is ready.
    pub(crate) async fn start(
        program: &Path,
        services: &[&str],
        folder: &Path,
        environment: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let mut starting = Starting::spawn(program, services, folder, environment)?;
        starting.ready().await
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// CPU time used so far, user and system.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        process::cpu(self.pid()).with_context(|| format!("{} has ended:\n{}", self.name, tail(&self.log)))
    }

    /// Its memory.
    pub(crate) fn memory(&self) -> anyhow::Result<Memory> {
        process::memory(self.pid()).with_context(|| format!("{} has ended:\n{}", self.name, tail(&self.log)))
    }

    /// Warnings and errors in its log.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let bad = |line: &&str| [" WARN ", " ERROR "].iter().any(|level| line.contains(level));
        log.lines().filter(bad).map(|line| format!("{}: {line}", self.name)).collect()
    }

    /// `kill -9`; returns when it is gone.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process is ours and measured; nothing is to be drained.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that was started and is not ready yet.
pub(crate) struct Starting {
    server: Option<Server>,
    ready_file: PathBuf,
    begun: Instant,
}

impl Starting {
    /// Starts it.
    pub(crate) fn spawn(
        program: &Path,
        services: &[&str],
        folder: &Path,
        environment: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let name = if services.is_empty() { "tidings".to_owned() } else { services.join("+") };
        let (log, ready_file) = (folder.join(format!("{name}.log")), folder.join(format!("{name}.ready")));
        let _ = std::fs::remove_file(&ready_file);
        let begun = Instant::now();
        let child = cleared(program)
            .arg("up")
            .args(services)
            .arg("--ready-file")
            .arg(&ready_file)
            .current_dir(folder)
            .env("TIDINGS_HTTP_ADDR", "127.0.0.1:0")
            .env("TIDINGS_ADMIN_ADDR", "127.0.0.1:0")
            .env("TIDINGS_LOG_FORMAT", "human")
            .env("TIDINGS_DATA_DIR", folder.join("data"))
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::options().create(true).append(true).open(&log)?)
            .spawn()
            .context("start the release binary")?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = Server { child, name, log, admin_url: String::new(), address, ready: Duration::ZERO };
        Ok(Self { server: Some(server), ready_file, begun })
    }

    /// Waits until it is ready.
    pub(crate) async fn ready(&mut self) -> anyhow::Result<Server> {
        let mut server = self.server.take().context("it is waited for once")?;
        let client = reqwest::Client::builder().no_proxy().build()?;
        loop {
            if server.admin_url.is_empty()
                && let Ok(bytes) = std::fs::read(&self.ready_file)
            {
                let told: Value = serde_json::from_slice(&bytes)?;
                server.admin_url = told["admin_url"].as_str().context("an admin URL")?.to_owned();
                // Only the api listens beside that.
                if let Some(url) = told["url"].as_str() {
                    server.address = url.trim_start_matches("http://").parse().context("an address")?;
                }
            }
            if !server.admin_url.is_empty()
                && let Ok(response) = client.get(format!("{}/readyz", server.admin_url)).send().await
                && response.status().is_success()
            {
                server.ready = self.begun.elapsed();
                return Ok(server);
            }
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended with {status} before it was ready:\n{}", server.name, tail(&server.log));
            }
            if self.begun.elapsed() > PATIENCE {
                bail!("{} is not ready in {PATIENCE:?}:\n{}", server.name, tail(&server.log));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// The program with no settings of whoever runs the bench.
pub(crate) fn cleared(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| FOREIGN.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
