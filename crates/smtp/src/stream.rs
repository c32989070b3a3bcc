//! The stream that lettre speaks on: we see how far a session has come, and every reply comes in the form that lettre
//! reads. It takes a reply in another form for none at all, and no reply to a mail is an unknown outcome: a server that
//! writes Latin-1, leaves out the text or ends a line with LF alone would be sent each mail twice.
//!
//! What is written goes out when a reply is waited for, in one write: lettre hands in a mail and the dot behind it apart.

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

/// Bytes that wait for company at most: a mail of the usual size goes out with its end.
const MAX_WAITING_BYTES: usize = 64 * 1024;

/// Whether anything was said on a stream, and whether the server takes commands together.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pipelining: AtomicBool,
    spoken: AtomicBool,
    spoke: Notify,
}

impl Progress {
    /// Whether anything was written: the greeting is over, since we speak second.
    pub(crate) fn has_spoken(&self) -> bool {
        self.spoken.load(Ordering::Acquire)
    }

    /// Whether the server said that it takes commands together (RFC 2920).
    pub(crate) fn takes_commands_together(&self) -> bool {
        self.pipelining.load(Ordering::Acquire)
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
    /// What was written and has not gone out, and how much of it has.
    written: Vec<u8>,
    gone: usize,
}

impl<S> Replies<S> {
    /// Of `inner`, whose first reply is `first` where that was read already.
    pub(crate) fn new(inner: S, peer: SocketAddr, first: &str) -> Self {
        let (ready, progress) = (first.as_bytes().to_vec(), Arc::default());
        Self { inner, peer, progress, line: Vec::new(), ready, given: 0, written: Vec::new(), gone: 0 }
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Takes in what was read; a line that is complete is ready.
    fn take_in(&mut self, bytes: &[u8]) -> io::Result<()> {
        for &byte in bytes {
            if byte == b'\n' {
                self.look_for_pipelining();
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

impl<S> Replies<S> {
    /// A greeting or a reply to a mail has no such line of its own; the reply to EHLO has where it is offered.
    fn look_for_pipelining(&self) {
        let line = self.line.strip_suffix(b"\r").unwrap_or(&self.line);
        if line.get(4..).is_some_and(|word| word.eq_ignore_ascii_case(b"PIPELINING"))
            && line.starts_with(b"250")
        {
            self.progress.pipelining.store(true, Ordering::Release);
        }
    }
}

impl<S: AsyncWrite + Unpin> Replies<S> {
    /// Ready when all that was written has gone out.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.gone < self.written.len() {
            let count = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.written[self.gone..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.gone += count;
        }
        if self.gone > 0 {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.gone = 0;
            // A large mail's room is not kept for the next one.
            if self.written.capacity() > MAX_WAITING_BYTES {
                self.written = Vec::new()
            } else {
                self.written.clear()
            }
        }
        Poll::Ready(Ok(()))
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

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Replies<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        while this.given == this.ready.len() {
            this.given = 0;
            this.ready.clear();
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
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if !this.progress.spoken.swap(true, Ordering::AcqRel) {
            this.progress.spoke.notify_waiters();
        }
        if !this.written.is_empty() && this.written.len() + bytes.len() > MAX_WAITING_BYTES {
            ready!(this.poll_out(cx))?;
        }
        this.written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Does nothing: whoever writes reads next, and the read sends it.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
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
