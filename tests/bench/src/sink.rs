//! A mail server that takes everything: counts mails and learns when each numbered body arrived.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{latency::Latencies, load::Outcome};

/// The sink. Dropped, it stops listening.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    /// Mails taken so far.
    pub(crate) taken: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

/// Which numbered bodies arrived.
#[derive(Default)]
struct Seen {
    /// When each number arrived first.
    arrivals: BTreeMap<u64, Instant>,
    /// How many came that had come before.
    doubled: u64,
}

impl Sink {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (taken, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(Seen::default())));
        let mut tasks = JoinSet::new();
        let (count, map) = (Arc::clone(&taken), Arc::clone(&seen));
        tasks.spawn(async move {
            let mut sessions = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (count, map) = (Arc::clone(&count), Arc::clone(&map));
                sessions.spawn(async move {
                    // A session that the client cuts is the client's business.
                    let _ = session(stream, &count, &map).await;
                });
            }
        });
        Ok(Self { address, taken, seen, _tasks: tasks })
    }

    /// Mails taken so far.
    pub(crate) fn count(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Forgets which numbers arrived: the next load begins to count from the start again.
    pub(crate) fn forget(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }

    /// When this number arrived first, if it did.
    pub(crate) fn arrival(&self, number: u64) -> Option<Instant> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).arrivals.get(&number).copied()
    }

    /// Mails of numbers that had come before, since the last [`Sink::forget`].
    pub(crate) fn doubled(&self) -> u64 {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).doubled
    }

    /// From each accepted post to its mail.
    pub(crate) fn latencies(&self, outcome: &Outcome) -> Latencies {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let mut mails = Latencies::default();
        for (number, at) in &outcome.posts {
            if let Some(arrived) = seen.arrivals.get(number) {
                mails.push(arrived.saturating_duration_since(*at));
            }
        }
        mails
    }

    /// Waits until so many were taken; fails when none comes for 30 s.
    pub(crate) async fn wait_for(&self, wanted: u64) -> anyhow::Result<()> {
        wait_for(&self.taken, wanted).await
    }
}

/// Waits until `taken` reaches `wanted`; fails when it stands still for 30 s.
pub(crate) async fn wait_for(taken: &AtomicU64, wanted: u64) -> anyhow::Result<()> {
    let (mut last, mut since) = (taken.load(Ordering::Relaxed), Instant::now());
    while taken.load(Ordering::Relaxed) < wanted {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let now = taken.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        anyhow::ensure!(since.elapsed() < Duration::from_secs(30), "{last} of {wanted} mails, none for 30 s");
    }
    Ok(())
}

async fn session(stream: TcpStream, taken: &AtomicU64, seen: &Mutex<Seen>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    let mut replies = b"220 sink\r\n".to_vec();
    let mut line = Vec::new();
    loop {
        // Commands that came together are answered together.
        if stream.buffer().is_empty() && !replies.is_empty() {
            stream.write_all(&replies).await?;
            replies.clear();
        }
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match line.get(..4).map(|verb| verb.to_ascii_uppercase()).as_deref() {
            Some(b"EHLO") => b"250-sink\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
            Some(b"DATA") => {
                replies.extend_from_slice(b"354 go\r\n");
                stream.write_all(&replies).await?;
                replies.clear();
                let mut number = None;
                loop {
                    line.clear();
                    if stream.read_until(b'\n', &mut line).await? == 0 {
                        return Ok(());
                    }
                    if line == b".\r\n" {
                        break;
                    }
                    if number.is_none() && line.len() > 13 && line[..12].iter().all(u8::is_ascii_digit) {
                        number =
                            std::str::from_utf8(&line[..12]).ok().and_then(|text| text.parse::<u64>().ok());
                    }
                }
                if let Some(number) = number {
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    let before = seen.arrivals.len();
                    seen.arrivals.entry(number).or_insert_with(Instant::now);
                    seen.doubled += u64::from(seen.arrivals.len() == before);
                }
                taken.fetch_add(1, Ordering::Relaxed);
                b"250 taken\r\n"
            }
            Some(b"QUIT") => {
                replies.extend_from_slice(b"221 bye\r\n");
                stream.write_all(&replies).await?;
                return Ok(());
            }
            _ => b"250 ok\r\n",
        };
        replies.extend_from_slice(reply);
    }
}
