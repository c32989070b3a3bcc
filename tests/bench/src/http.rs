//! A keep-alive HTTP/1.1 client that costs next to nothing: one request under way on one connection.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
pub(crate) struct Response {
    pub(crate) status: u16,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: Vec::with_capacity(4096) })
    }

    /// POSTs a text.
    pub(crate) async fn post(&mut self, path: &str, body: &str) -> anyhow::Result<Response> {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(request.as_bytes()).await?;
        self.read().await
    }

    async fn read(&mut self) -> anyhow::Result<Response> {
        loop {
            if let Some((response, used)) = parse(&self.buffer)? {
                self.buffer.drain(..used);
                return Ok(response);
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
        }
    }
}

/// A whole response at the head of `bytes`, with its length.
fn parse(bytes: &[u8]) -> anyhow::Result<Option<(Response, usize)>> {
    let Some(head) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&bytes[..head]).context("a response head")?;
    let status = text.get(9..12).context("a status line")?.parse().context("a status")?;
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(Ok(0), |(_, value)| value.trim().parse::<usize>())
        .context("a content-length")?;
    let end = head + 4 + length;
    Ok((bytes.len() >= end).then_some((Response { status }, end)))
}
