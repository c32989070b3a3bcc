//! The accept loop: sockets, and what a client may cost before its request reaches the router.
#![expect(clippy::disallowed_types, reason = "sockets are made and owned here, and nowhere in a service")]

use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use tidings_runtime::shutdown::Shutdown;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tower::ServiceExt as _;

use self::socket::Socket;

mod socket;

/// How long the loop waits when the system has no more files to give.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The bounds of the accept loop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Settings {
    /// Connections at once; more wait to be accepted.
    pub(crate) max_connections: usize,
    /// The longest head of a request, in bytes; a longer one is 431.
    pub(crate) max_header_bytes: usize,
    /// How long a connection may take to send a head, and how long it may be idle.
    pub(crate) header_read_timeout_ms: u64,
    /// How long a client may leave an answer unread.
    pub(crate) write_timeout_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_connections: 900,
            max_header_bytes: 64 * 1024,
            header_read_timeout_ms: 30_000,
            write_timeout_ms: 30_000,
        }
    }
}

impl Settings {
    /// What is wrong, by the setting's name.
    pub(crate) fn faults(&self) -> Vec<(&'static str, String)> {
        let mut faults = Vec::new();
        if self.max_connections == 0 {
            faults.push(("max_connections", "at least 1, or nobody is served".to_owned()));
        }
        if !(1024..=1024 * 1024).contains(&self.max_header_bytes) {
            faults.push(("max_header_bytes", "between 1024 and 1048576 bytes".to_owned()));
        }
        let times = [
            ("header_read_timeout_ms", self.header_read_timeout_ms),
            ("write_timeout_ms", self.write_timeout_ms),
        ];
        for (name, millis) in times {
            if !(10..=3_600_000).contains(&millis) {
                faults.push((name, "between 10 and 3600000 milliseconds".to_owned()));
            }
        }
        faults
    }
}

/// What answers at a socket: one router until there is another, then that one for good. Clones are the same.
#[derive(Clone)]
pub(crate) struct Front {
    first: Router,
    then: Arc<OnceLock<Router>>,
}

impl Front {
    /// Answers with `first` until it is opened.
    pub(crate) fn new(first: Router) -> Self {
        Self { first, then: Arc::default() }
    }

    /// From now on `router` answers. Only the first call does something.
    pub(crate) fn open(&self, router: Router) {
        let _opened_before = self.then.set(router);
    }

    fn router(&self) -> Router {
        self.then.get().unwrap_or(&self.first).clone()
    }
}

/// Serves `front` on `listener` until the wish to stop; then accepts nothing, lets every request under way finish and
/// returns. What is still under way shortly before the end of the grace is cut off, so that the rest can end in time.
pub(crate) async fn serve(listener: TcpListener, front: Front, settings: Settings, shutdown: Shutdown) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.requested() => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept(), if connections.len() < settings.max_connections => match accepted {
                Ok((stream, peer)) => {
                    let (front, settings, shutdown) = (front.clone(), settings.clone(), shutdown.clone());
                    connections.spawn(connection(stream, peer, front, settings, shutdown));
                }
                Err(error) => {
                    // A connection that ended before it was accepted says nothing of the listener.
                    if !is_of_connection(&error) {
                        tracing::warn!(error = %error, "no connection can be accepted");
                        shutdown.sleep(ACCEPT_PAUSE).await;
                    }
                }
            },
        }
    }
    drop(listener);
    let drained = tokio::time::timeout(shutdown.grace() * 9 / 10, async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "the grace is nearly over: requests still under way are cut off"
        );
    }
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    front: Front,
    settings: Settings,
    shutdown: Shutdown,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = %error, "TCP_NODELAY cannot be set");
    }
    let service = hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        front.router().oneshot(request.map(Body::new))
    });
    let socket = TokioIo::new(Socket::new(stream, Duration::from_millis(settings.write_timeout_ms)));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .keep_alive(true)
        .max_header_size(settings.max_header_bytes)
        .header_read_timeout(Duration::from_millis(settings.header_read_timeout_ms));
    let mut connection = std::pin::pin!(builder.serve_connection(socket, service));
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = shutdown.requested() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %error, "a connection ended early");
    }
}

fn is_of_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = %error, "a connection's task panicked");
    }
}

#[cfg(test)]
mod tests;
