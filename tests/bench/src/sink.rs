//! A mail server that takes everything: counts mails and learns when each numbered body arrived.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// The sink. Dropped, it stops listening.
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    /// Mails taken so far.
    pub(crate) taken: Arc<AtomicU64>,
    /// When the body with each number arrived first.
    pub(crate) arrivals: Arc<Mutex<BTreeMap<u64, Instant>>>,
    _tasks: JoinSet<()>,
}

impl Sink {
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (taken, arrivals) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(BTreeMap::new())));
        let mut tasks = JoinSet::new();
        let (count, map) = (Arc::clone(&taken), Arc::clone(&arrivals));
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
        Ok(Self { address, taken, arrivals, _tasks: tasks })
    }
}

async fn session(
    stream: TcpStream,
    taken: &AtomicU64,
    arrivals: &Mutex<BTreeMap<u64, Instant>>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink\r\n").await?;
    let mut line = Vec::new();
    loop {
        line.clear();
        if stream.read_until(b'\n', &mut line).await? == 0 {
            return Ok(());
        }
        let reply: &[u8] = match line.get(..4).map(|verb| verb.to_ascii_uppercase()).as_deref() {
            Some(b"EHLO") => b"250-sink\r\n250-8BITMIME\r\n250 PIPELINING\r\n",
            Some(b"DATA") => {
                stream.write_all(b"354 go\r\n").await?;
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
                taken.fetch_add(1, Ordering::Relaxed);
                if let (Some(number), Ok(mut arrivals)) = (number, arrivals.lock()) {
                    arrivals.entry(number).or_insert_with(Instant::now);
                }
                b"250 taken\r\n"
            }
            Some(b"QUIT") => {
                stream.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => b"250 ok\r\n",
        };
        stream.write_all(reply).await?;
    }
}
