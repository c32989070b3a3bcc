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
    /// The number of each accepted post, and when it left (open: when it was due).
    pub(crate) posts: Vec<(u64, Instant)>,
    /// How long it took.
    pub(crate) took: Duration,
}

impl Outcome {
    fn accept(&mut self, number: u64, at: Instant) {
        self.accepted += 1;
        self.latencies.push(at.elapsed());
        self.posts.push((number, at));
    }
}

/// Holds a closed load back while too many of its messages are under way.
#[derive(Clone)]
pub(crate) struct UnderWay {
    /// Mails taken so far, of all loads.
    pub(crate) taken: Arc<AtomicU64>,
    /// Of these, how many before this load.
    pub(crate) before: u64,
    /// Messages under way at most.
    pub(crate) most: u64,
}

/// A body of 300 bytes that carries its number.
pub(crate) fn body(number: u64) -> String {
    format!("{number:012} {}", "a text of three hundred bytes ".repeat(10))[..300].to_owned()
}

/// `connections` connections post as fast as they are answered, for `duration`; they wait while too many messages are
/// under way.
pub(crate) async fn closed(
    address: SocketAddr,
    path: &'static str,
    connections: usize,
    duration: Duration,
    under_way: Option<UnderWay>,
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
                if let Some(UnderWay { taken, before, most }) = &under_way {
                    while number.saturating_sub(taken.load(Ordering::Relaxed) - before) > *most
                        && begun.elapsed() < duration
                    {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                let at = Instant::now();
                match connection.post(path, &body(number)).await {
                    Ok(response) if response.status < 300 => outcome.accept(number, at),
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

/// Posts leave at `rate` a second for `duration`, whatever the answers do.
pub(crate) async fn open(
    address: SocketAddr,
    path: &'static str,
    rate: u32,
    duration: Duration,
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
                    Ok(response) if response.status < 300 => outcome.accept(number, at),
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
        all.posts.extend(outcome.posts);
    }
    Ok(all)
}
