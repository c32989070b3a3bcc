//! The stream that lettre speaks on: ours, so that nothing waits in it and we see how far a session has come.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// What the stream has seen.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    spoken: AtomicBool,
    spoke: Notify,
    plain: AtomicBool,
}

impl Progress {
    /// Whether anything was written: the greeting is over, since we speak second.
    pub(crate) fn has_spoken(&self) -> bool {
        self.spoken.load(Ordering::Acquire)
    }

    /// Ends when something was written for the first time.
    pub(crate) async fn spoke(&self) {
        let spoke = self.spoke.notified();
        if !self.has_spoken() {
            spoke.await;
        }
    }

    /// From now on, until [`Progress::encrypted`], reads give one byte at a time, so that the reader above never holds
    /// bytes beyond the reply that it reads. Whatever is sent with the reply to STARTTLS thus reaches the handshake,
    /// where it is an error, and is never taken for a reply of the encrypted session.
    pub(crate) fn to_be_encrypted(&self) {
        self.plain.store(true, Ordering::Release);
    }

    pub(crate) fn encrypted(&self) {
        self.plain.store(false, Ordering::Release);
    }
}

/// A stream with its [`Progress`].
pub(crate) struct Observed<S> {
    inner: S,
    peer: SocketAddr,
    progress: Arc<Progress>,
}

impl<S> Observed<S> {
    pub(crate) fn new(inner: S, peer: SocketAddr, progress: Arc<Progress>) -> Self {
        Self { inner, peer, progress }
    }
}

impl<S> fmt::Debug for Observed<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observed").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> AsyncTokioStream for Observed<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Observed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.progress.plain.load(Ordering::Acquire) || buf.remaining() <= 1 {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        let polled = Pin::new(&mut self.inner).poll_read(cx, &mut one);
        buf.put_slice(one.filled());
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Observed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if !self.progress.spoken.swap(true, Ordering::AcqRel) {
            self.progress.spoke.notify_waiters();
        }
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
