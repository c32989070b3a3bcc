//! How soon the flow resumes: after the broker was restarted, and after the active watcher was killed.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::ensure;

use super::{
    installation::{Installation, PATH},
    servers::Servers,
};
use crate::{http::Connection, load, sink::Sink};

/// How long the flow may stand still before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long one POST may take.
const ANSWER: Duration = Duration::from_secs(15);

/// When the flow had resumed, counted from when what had failed was there again.
pub(crate) struct Resumed {
    /// The first POST that was accepted.
    pub(crate) accepted: Duration,
    /// Its mail.
    pub(crate) mailed: Duration,
}

/// Posts one message after the other until one is accepted and mailed. Numbers begin at `number`, one each POST.
async fn until_mailed(address: SocketAddr, sink: &Sink, mut number: u64) -> anyhow::Result<Resumed> {
    let begun = Instant::now();
    let accepted = loop {
        ensure!(begun.elapsed() < PATIENCE, "no POST is accepted for {PATIENCE:?}");
        number += 1;
        let post = async {
            let mut connection = Connection::open(address).await?;
            connection.post(PATH, &load::body(number)).await
        };
        if let Ok(Ok(response)) = tokio::time::timeout(ANSWER, post).await
            && response.status < 300
        {
            break begun.elapsed();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    loop {
        if let Some(arrived) = sink.arrival(number) {
            return Ok(Resumed { accepted, mailed: arrived.saturating_duration_since(begun) });
        }
        ensure!(begun.elapsed() < PATIENCE, "the message that was accepted is not mailed for {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Restarts the broker under a light load; counted from when it answers again.
pub(crate) async fn broker(
    installation: &Installation,
    servers: &mut Servers,
    sink: &Sink,
) -> anyhow::Result<Resumed> {
    let address = installation.address()?;
    sink.forget();
    until_mailed(address, sink, 0).await?;
    servers.rabbitmq.stop().await;
    servers.rabbitmq.start_again().await;
    let resumed = until_mailed(address, sink, 1_000_000).await?;
    servers.look_again().await?;
    Ok(resumed)
}

/// Kills the active watcher while another stands by; counted from the kill. The other takes its place.
pub(crate) async fn watcher(installation: &mut Installation, sink: &Sink) -> anyhow::Result<Resumed> {
    let address = installation.address()?;
    sink.forget();
    let standby = installation.another("cdc-watcher").await?;
    until_mailed(address, sink, 2_000_000).await?;
    installation.take("cdc-watcher")?.kill()?;
    let resumed = until_mailed(address, sink, 3_000_000).await?;
    installation.put("cdc-watcher", standby);
    Ok(resumed)
}
