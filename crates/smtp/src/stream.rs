//! The stream that lettre speaks on: nothing waits in it, we see how far a session has come, and every reply comes in
//! the form that lettre reads. It takes a reply in another form for none at all, and no reply to a mail is an unknown
//! outcome: a server that writes Latin-1, leaves out the text or ends a line with LF alone would be sent each mail twice.

use std::{
    fmt, io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use lettre::transport::smtp::client::AsyncTokioStream;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::Notify,
};

/// The longest line of a reply that is taken (RFC 5321, 4.5.3.1.5, has 512), in bytes.
pub(crate) const MAX_LINE_BYTES: usize = 2048;

/// Whether anything was said on a stream.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    spoken: AtomicBool,
    spoke: Notify,
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
}

/// A connection whose reads are replies.
pub(crate) struct Replies<S> {
    inner: S,
    peer: SocketAddr,
    progress: Arc<Progress>,
    /// The line that is being read.
    line: Vec<u8>,
    /// What is ready to be handed out, and how much of it was.
    ready: Vec<u8>,
    given: usize,
}

impl<S> Replies<S> {
    /// Of `inner`, whose first reply is `first` where that was read already.
    pub(crate) fn new(inner: S, peer: SocketAddr, first: &str) -> Self {
        let (ready, progress) = (first.as_bytes().to_vec(), Arc::default());
        Self { inner, peer, progress, line: Vec::new(), ready, given: 0 }
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Takes in what was read; a line that is complete is ready.
    fn take_in(&mut self, bytes: &[u8]) -> io::Result<()> {
        for &byte in bytes {
            if byte == b'\n' {
                self.ready.extend_from_slice(normal(&self.line).as_bytes());
                self.ready.extend_from_slice(b"\r\n");
                self.line.clear();
            } else {
                self.line.push(byte);
            }
        }
        if self.line.len() > MAX_LINE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line of a reply is too long"));
        }
        Ok(())
    }
}

/// A line of a reply, without its end, as lettre reads it: ASCII, and a space after a code that stands alone.
pub(crate) fn normal(line: &[u8]) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text =
        line.iter().map(|byte| if matches!(byte, b' '..=b'~' | b'\t') { char::from(*byte) } else { '?' });
    let mut text: String = text.collect();
    if text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.push(' ');
    }
    text
}

impl<S> fmt::Debug for Replies<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> AsyncTokioStream for Replies<S> {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.peer)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Replies<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.given == this.ready.len() {
            (this.given, this.ready) = (0, Vec::new());
            let mut bytes = [0; 1024];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.take_in(read.filled())?;
        }
        let count = out.remaining().min(this.ready.len() - this.given);
        out.put_slice(&this.ready[this.given..this.given + count]);
        this.given += count;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Replies<S> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_lettre_reads_them() {
        assert_eq!(normal(b"250 2.0.0 ok\r"), "250 2.0.0 ok");
        assert_eq!(normal(b"250"), "250 ");
        assert_eq!(normal(b"250-"), "250-");
        assert_eq!(normal(b"250 angenommen f\xfcr Sie\r"), "250 angenommen f?r Sie");
        assert_eq!(normal(b"220\x00"), "220?");
    }
}
