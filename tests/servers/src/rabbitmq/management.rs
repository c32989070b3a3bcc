//! The management's HTTP API, as much as tests need. Every call blocks.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use serde_json::Value;

use crate::program;

/// Asks with a login.
pub(super) struct Management {
    address: SocketAddr,
    /// User and password with a colon between.
    login: String,
}

impl Management {
    pub(super) fn new(address: SocketAddr, login: &str) -> Self {
        Self { address, login: login.to_owned() }
    }

    pub(super) fn user(&self) -> &str {
        self.login.split(':').next().unwrap_or_default()
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}@{}", self.login, self.address)
    }

    /// The answer to a request, null for an empty one. Panics unless it is a success.
    pub(super) fn ask(&self, method: &str, path: &str, body: &str) -> Value {
        let (status, answer) = self
            .try_ask(method, path, body)
            .unwrap_or_else(|| panic!("the management at {} does not answer", self.address));
        assert!((200..300).contains(&status), "{method} {path} answers {status}: {answer}");
        if answer.trim().is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{method} {path}: {error} in {answer}"))
    }

    /// Status and body; none while it does not listen.
    pub(super) fn try_ask(&self, method: &str, path: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = program::connect(self.address)?;
        // HTTP/1.0: the answer ends with the connection and is never cut into chunks.
        let request = format!(
            "{method} {path} HTTP/1.0\r\nHost: {}\r\nAuthorization: Basic {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.address,
            BASE64_STANDARD.encode(&self.login),
            body.len(),
        );
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some((status, body.to_owned()))
    }
}

/// `text` as one segment of a path.
pub(super) fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
