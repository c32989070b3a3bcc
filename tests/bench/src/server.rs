//! The server under test: the release binary as a child, and what the kernel says of it.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// A running `tidings`. Dropped, it is ended.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    /// From exec to the first 200 of `/readyz`.
    pub(crate) ready: Duration,
}

impl Server {
    /// Starts `program` on free ports with its data in `data`.
    pub(crate) async fn start(
        program: &Path,
        data: &Path,
        environment: &[(&str, String)],
    ) -> anyhow::Result<Self> {
        let address = free_address()?;
        let admin = free_address()?;
        let begun = Instant::now();
        let child = Command::new(program)
            .arg("up")
            .current_dir(data)
            .env("TIDINGS_HTTP_ADDR", address.to_string())
            .env("TIDINGS_ADMIN_ADDR", admin.to_string())
            .env("TIDINGS_DATA_DIR", data.join("data"))
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(data.join("log"))?)
            .spawn()
            .context("start the release binary")?;
        let mut server = Self { child, address, ready: Duration::ZERO };
        let url = format!("http://{address}/readyz");
        let client = reqwest::Client::new();
        loop {
            if let Ok(response) = client.get(&url).send().await
                && response.status().is_success()
            {
                server.ready = begun.elapsed();
                return Ok(server);
            }
            if begun.elapsed() > Duration::from_secs(30) || server.child.try_wait()?.is_some() {
                bail!("not ready in 30 s: {}", std::fs::read_to_string(data.join("log"))?);
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// CPU time used so far, user and system.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> =
            stat.rsplit_once(')').context("a stat line")?.1.split_ascii_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        // USER_HZ is 100 on every Linux that we run on.
        Ok(Duration::from_millis(ticks * 10))
    }

    /// Resident memory in MiB: now, and the most that it ever was.
    pub(crate) fn memory(&self) -> anyhow::Result<(f64, f64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let field = |name: &str| -> anyhow::Result<f64> {
            let line = status.lines().find(|line| line.starts_with(name)).context("a status field")?;
            let kib: f64 = line.split_ascii_whitespace().nth(1).context("its number")?.parse()?;
            Ok(kib / 1024.0)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process is ours and measured; nothing is to be drained.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
