//! HTTP as bytes on a socket.

use reqwest::header;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufStream},
    net::TcpStream,
    time::timeout,
};

use super::{Answer, PATIENCE};

/// A connection of a client that does as it likes: for what no proper client sends.
pub(crate) struct Wire {
    stream: BufStream<TcpStream>,
}

impl Wire {
    /// Connects to where a URL says.
    pub(crate) async fn connect(url: &str) -> Self {
        let stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
        Self { stream: BufStream::new(stream) }
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Sends what the server may have heard enough of before its end.
    pub(crate) async fn push(&mut self, bytes: impl AsRef<[u8]>) {
        let _cut_short = async {
            self.stream.write_all(bytes.as_ref()).await?;
            self.stream.flush().await
        }
        .await;
    }

    /// Sends no more.
    pub(crate) async fn hang_up(&mut self) {
        let _gone_already = self.stream.get_mut().shutdown().await;
    }

    /// One answer: its status line, its headers and its body, which has to have a length.
    pub(crate) async fn answer(&mut self) -> Answer {
        let status = self.line().await;
        let code = status.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status =
            code.and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status: {status:?}"));
        let mut headers = header::HeaderMap::new();
        loop {
            let line = self.line().await;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.append(header::HeaderName::try_from(name).unwrap(), value.parse().unwrap());
        }
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        timeout(PATIENCE, self.stream.read_exact(&mut body)).await.expect("a body in time").unwrap();
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Answer { status, headers, body }
    }

    /// One line of what the server says, without its line break; empty at the end.
    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        timeout(PATIENCE, self.stream.read_line(&mut line)).await.expect("a line in time").unwrap();
        line.trim_end().to_owned()
    }

    /// Everything until the server closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await.expect("closed in time").unwrap();
        String::from_utf8_lossy(&rest).into_owned()
    }
}
