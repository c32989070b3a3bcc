//! Load: closed (each connection posts as fast as it is answered) and open (posts leave at a fixed rate).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::mpsc, task::JoinSet};

use crate::{http::Connection, latency::Latencies};

/// What a load came to.
#[derive(Default)]
pub(crate) struct Outcome {
    /// Posts that were accepted.
    pub(crate) accepted: u64,
    /// Posts that were refused or lost.
    pub(crate) failed: u64,
    /// From the last byte sent to the answer (open: from the time that the post was due).
    pub(crate) latencies: Latencies,
    /// How long it took.
    pub(crate) took: Duration,
}

/// A body of 300 bytes that carries its number.
pub(crate) fn body(number: u64) -> String {
    format!("{number:012} {}", "a text of three hundred bytes ".repeat(10))[..300].to_owned()
}

/// `connections` connections post as fast as they are answered, for `duration`; `admit` waits while too many messages
/// are under way.
pub(crate) async fn closed(
    address: SocketAddr,
    path: &'static str,
    connections: usize,
    duration: Duration,
    under_way: Option<(Arc<AtomicU64>, u64)>,
) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let posted = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..connections {
        let (posted, under_way) = (Arc::clone(&posted), under_way.clone());
        let mut connection = Connection::open(address).await?;
        tasks.spawn(async move {
            let mut outcome = Outcome::default();
            while begun.elapsed() < duration {
                let number = posted.fetch_add(1, Ordering::Relaxed);
                if let Some((mailed, most)) = &under_way {
                    while number.saturating_sub(mailed.load(Ordering::Relaxed)) > *most
                        && begun.elapsed() < duration
                    {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                let at = Instant::now();
                match connection.post(path, &body(number)).await {
                    Ok(response) if response.status < 300 => {
                        outcome.accepted += 1;
                        outcome.latencies.push(at.elapsed());
                    }
                    Ok(_) => outcome.failed += 1,
                    Err(_) => {
                        outcome.failed += 1;
                        connection = Connection::open(address).await?;
                    }
                }
            }
            anyhow::Ok(outcome)
        });
    }
    let mut outcome = gather(tasks).await?;
    outcome.took = begun.elapsed();
    Ok(outcome)
}

/// Posts leave at `rate` a second for `duration`, whatever the answers do; `sent` learns when each number was due.
pub(crate) async fn open(
    address: SocketAddr,
    path: &'static str,
    rate: u32,
    duration: Duration,
    due: impl Fn(u64, Instant),
) -> anyhow::Result<Outcome> {
    const CONNECTIONS: usize = 64;
    let (sender, receiver) = mpsc::channel::<(u64, Instant)>(100_000);
    let receiver = Arc::new(tokio::sync::Mutex::new(receiver));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let receiver = Arc::clone(&receiver);
        let mut connection = Connection::open(address).await?;
        tasks.spawn(async move {
            let mut outcome = Outcome::default();
            loop {
                let next = receiver.lock().await.recv().await;
                let Some((number, at)) = next else { return anyhow::Ok(outcome) };
                match connection.post(path, &body(number)).await {
                    Ok(response) if response.status < 300 => {
                        outcome.accepted += 1;
                        outcome.latencies.push(at.elapsed());
                    }
                    _ => outcome.failed += 1,
                }
            }
        });
    }
    let begun = Instant::now();
    let total = u64::from(rate) * duration.as_secs();
    for number in 0..total {
        let at =
            begun + Duration::from_secs_f64(1.0 / f64::from(rate)).mul_f64(f64::from(u32::try_from(number)?));
        tokio::time::sleep_until(at.into()).await;
        let at = Instant::now().min(at + Duration::from_millis(2));
        due(number, at);
        sender.send((number, at)).await?;
    }
    drop(sender);
    let mut outcome = gather(tasks).await?;
    outcome.took = begun.elapsed();
    Ok(outcome)
}

async fn gather(mut tasks: JoinSet<anyhow::Result<Outcome>>) -> anyhow::Result<Outcome> {
    let mut all = Outcome::default();
    while let Some(outcome) = tasks.join_next().await {
        let outcome = outcome??;
        all.accepted += outcome.accepted;
        all.failed += outcome.failed;
        all.latencies.extend(outcome.latencies);
    }
    Ok(all)
}
