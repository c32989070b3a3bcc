//! A TCP proxy with faults, to stand between two that must survive them.
#![expect(
    clippy::disallowed_types,
    reason = "a server for tests: it owns sockets and tasks, and ends with the value"
)]

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::port::Port;

/// Passes bytes on to a server. It ends, with every connection, when it is dropped.
pub struct Proxy {
    port: Port,
    to: SocketAddr,
    faults: watch::Sender<Faults>,
    running: Mutex<Option<Running>>,
}

#[derive(Clone, Copy, Default)]
struct Faults {
    frozen: bool,
    bytes_per_second: Option<u32>,
}

/// The listener and its connections.
struct Running {
    /// Ends all of it.
    all: CancellationToken,
    /// Ends the connections that are open.
    connections: Arc<Mutex<CancellationToken>>,
    tasks: TaskTracker,
}

impl Proxy {
    /// Starts one on a free port. The server need not answer yet.
    pub async fn to(to: SocketAddr) -> Self {
        let proxy =
            Self { port: Port::new(), to, faults: watch::Sender::default(), running: Mutex::new(None) };
        proxy.heal().await;
        proxy
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.address()
    }

    /// `url` with its host and port replaced by the proxy's.
    pub fn url(&self, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").expect("a URL has a scheme");
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let login = authority.rsplit_once('@').map(|(login, _)| format!("{login}@")).unwrap_or_default();
        format!("{scheme}://{login}{}{path}", self.addr())
    }

    /// Bytes stop both ways; connections stay, new ones are accepted and hear nothing.
    pub fn freeze(&self) {
        self.faults.send_modify(|faults| faults.frozen = true);
    }

    /// Bytes go on.
    pub fn thaw(&self) {
        self.faults.send_modify(|faults| faults.frozen = false);
    }

    /// From now on at most so many bytes go through a second, each way and connection; 0 lifts that.
    pub fn throttle(&self, bytes_per_second: u32) {
        let limit = (bytes_per_second > 0).then_some(bytes_per_second);
        self.faults.send_modify(|faults| faults.bytes_per_second = limit);
    }

    /// Drops all connections and refuses new ones. Returns when that is so.
    pub async fn cut(&self) {
        let running = self.lock().take();
        if let Some(running) = running {
            running.all.cancel();
            running.tasks.close();
            running.tasks.wait().await;
        }
    }

    /// Takes connections again, on the same port. Returns when that is so.
    #[expect(clippy::unused_async, reason = "its counterpart, cut, has to wait")]
    pub async fn heal(&self) {
        if self.lock().is_some() {
            return;
        }
        let socket = TcpSocket::new_v4().expect("a socket can be made");
        socket.set_reuseaddr(true).expect("a socket takes the option");
        socket.bind(self.addr()).expect("the port is ours");
        let listener = socket.listen(1024).expect("a bound socket can listen");
        let running =
            Running { all: CancellationToken::new(), connections: Arc::default(), tasks: TaskTracker::new() };
        let (tasks, all, connections) =
            (running.tasks.clone(), running.all.clone(), Arc::clone(&running.connections));
        let (faults, to) = (self.faults.clone(), self.to);
        running.tasks.spawn(async move {
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = all.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((client, _)) = accepted else { continue };
                let ended = lock(&connections).clone();
                let (all, faults) = (all.clone(), faults.subscribe());
                tasks.spawn(async move {
                    tokio::select! {
                        biased;
                        () = all.cancelled() => {}
                        () = ended.cancelled() => {}
                        // An end of a connection is passed on by dropping the other.
                        _ = pass(client, to, faults) => {}
                    }
                });
            }
        });
        *self.lock() = Some(running);
    }

    /// Drops all connections once; new ones are taken.
    pub async fn close_connections(&self) {
        if let Some(running) = self.lock().as_ref() {
            std::mem::take(&mut *lock(&running.connections)).cancel();
        }
        // The ends are seen in order: a task of ours that runs after theirs.
        tokio::task::yield_now().await;
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        lock(&self.running)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(running) = self.lock().take() {
            running.all.cancel();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn pass(client: TcpStream, to: SocketAddr, mut faults: watch::Receiver<Faults>) -> io::Result<()> {
    faults.wait_for(|faults| !faults.frozen).await.map_err(io::Error::other)?;
    let server = TcpStream::connect(to).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::try_join!(copy(from_client, to_server, faults.clone()), copy(from_server, to_client, faults))?;
    Ok(())
}

/// Copies until the end, which is passed on.
async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut faults: watch::Receiver<Faults>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let limit = faults.borrow().bytes_per_second;
        // Ten times a second a tenth of it.
        let most = limit.map_or(buffer.len(), |limit| (limit as usize / 10).clamp(1, buffer.len()));
        let count = from.read(&mut buffer[..most]).await?;
        // What was read while it froze waits here: nothing passes until it thaws.
        faults.wait_for(|faults| !faults.frozen).await.map_err(io::Error::other)?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..count]).await?;
        if let Some(limit) = limit {
            tokio::time::sleep(Duration::from_secs_f64(count as f64 / f64::from(limit))).await;
        }
    }
}
