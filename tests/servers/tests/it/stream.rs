//! Connections of a test's own, without a client library: bytes out, bytes in.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// How long what should happen may take.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// How long we listen for what should not happen.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

pub(crate) async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.expect("it listens")
}

/// What comes back for `bytes`, at least one byte; empty at the connection's end. None if nothing comes within `limit`.
pub(crate) async fn ask(stream: &mut TcpStream, bytes: &[u8], limit: Duration) -> Option<Vec<u8>> {
    let mut answer = vec![0; 64 * 1024];
    let exchange = async {
        // The other side may be gone: the read tells.
        let _ = stream.write_all(bytes).await;
        stream.read(&mut answer).await.unwrap_or(0)
    };
    let count = timeout(limit, exchange).await.ok()?;
    answer.truncate(count);
    Some(answer)
}
