//! The table stream: `pg_recvlogical` on a copy of the slot, and our reading half (read, decode, confirm; no publish) on the
//! slot itself. Both read the same changes, which lie there before either begins.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use tidings_domain::ports::ChangeStream;
use tidings_postgres::Store;
use tokio::process::Command;

use super::{Hop, Sample, Stopwatch};
use crate::selfhosted::servers::{Servers, database};

/// The name of this hop.
pub(crate) const NAME: &str = "table stream; pg_recvlogical";

/// Changes taken at once.
const TAKEN: usize = 256;

/// Copies the slot as it stands: whoever reads the copy sees what the slot's reader will see. Both are named after the
/// namespace of the bench's store, and so is the publication.
const COPY: &str = "select 1 from pg_copy_logical_replication_slot('bench', 'bench_copy')";

/// Ends the copy.
const DROP: &str = "select pg_drop_replication_slot('bench_copy')";

/// Ends the slot of the bench's store once nobody reads it: it would hold back the server's log.
const END: &str =
    "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = 'bench'";

/// Whether somebody reads it.
const READ: &str = "select count(*) from pg_replication_slots where slot_name = 'bench' and active";

/// Changes that are still to be written, and both who will read them.
pub(crate) struct Backlog<'a> {
    servers: &'a Servers,
    url: &'a str,
    database: &'a str,
}

impl<'a> Backlog<'a> {
    /// What is inserted from now on is read by both.
    pub(crate) async fn begin(servers: &'a Servers, url: &'a str) -> Self {
        let database = database(url);
        servers.postgres.psql(database, COPY).await;
        Self { servers, url, database }
    }

    /// Reads the `count` changes that were inserted since, the floor first or last.
    pub(crate) async fn measure(
        self,
        hop: &mut Hop,
        store: &Store,
        count: u64,
        floor_first: bool,
    ) -> anyhow::Result<()> {
        let end = self.servers.postgres.psql(self.database, "select pg_current_wal_lsn()").await;
        let pid = self.servers.pids().postgres;
        if floor_first {
            hop.floor(floor(pid, self.url, end.trim(), count).await?);
        }
        hop.ours(ours(pid, store, count).await?);
        if !floor_first {
            hop.floor(floor(pid, self.url, end.trim(), count).await?);
        }
        self.servers.postgres.psql(self.database, DROP).await;
        Ok(())
    }
}

/// After the last round, and after the store was closed.
pub(crate) async fn end(servers: &Servers, url: &str) {
    while servers.postgres.psql(database(url), READ).await.trim() != "0" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    servers.postgres.psql(database(url), END).await;
}

/// The floor: reads the copy up to `end` and throws away what it reads.
async fn floor(pid: u32, url: &str, end: &str, count: u64) -> anyhow::Result<Sample> {
    let stopwatch = Stopwatch::start(Some(pid))?;
    let output = Command::new("pg_recvlogical")
        .args(["--dbname", url, "--slot", "bench_copy", "--start", "--no-loop", "--endpos", end])
        .args(["-o", "proto_version=1", "-o", "publication_names=bench", "--file", "/dev/null"])
        .args(["--fsync-interval", "0"])
        .stdin(Stdio::null())
        .output()
        .await
        .context("start pg_recvlogical")?;
    ensure!(output.status.success(), "pg_recvlogical: {}", String::from_utf8_lossy(&output.stderr));
    stopwatch.stop(count)
}

/// Ours: reads `count` changes and confirms each batch.
async fn ours(pid: u32, store: &Store, count: u64) -> anyhow::Result<Sample> {
    let mut stream = store.changes().open().await?;
    let stopwatch = Stopwatch::start(Some(pid))?;
    read(&mut *stream, count).await?;
    stopwatch.stop(count)
}

async fn read(stream: &mut dyn ChangeStream, count: u64) -> anyhow::Result<()> {
    let mut left = count;
    while left > 0 {
        let captured = stream.next(TAKEN, Duration::from_secs(10)).await?;
        let last = captured.last().with_context(|| format!("{left} of {count} changes never came"))?;
        stream.confirm(last.position).await?;
        left = left.saturating_sub(captured.len() as u64);
    }
    Ok(())
}
