//! Clients: each does one thing through the api as a real one would, in a task of its own, and keeps the ledger.

mod foreign;
mod operators;
mod posts;
mod readers;
mod recipients;

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use axum::body::Body;
use http::Request;
use tidings_memory::{Memory, SeededEntropy};

use crate::{
    door::{Door, NoAnswer, Reply},
    ledger::Ledger,
};

/// The host by which clients name the api.
pub(crate) const HOST: &str = "127.0.0.1:8080";

/// How long a client waits for an answer at most: longer than any request may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a client has.
pub(crate) struct Client {
    /// The way into the api.
    pub door: Door,
    /// The accounts.
    pub ledger: Ledger,
    /// The memory, for its mailbox and for parties that go past the api.
    pub memory: Memory,
    /// How many clients wait for a mail that may never come.
    pub waiting: Arc<AtomicUsize>,
    /// Its own chance.
    pub chance: SeededEntropy,
    /// Whether nothing goes wrong outside of it, so that it must not do so itself.
    pub is_calm: bool,
}

impl Client {
    /// Sends a request; now and then its patience ends early.
    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Result<Reply, NoAnswer> {
        let mut request = Request::builder().method(method).uri(path).header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).expect("a client makes a valid request");
        let leaves = !self.is_calm && self.chance.below(30) == 0;
        let patience = if leaves { Duration::from_millis(self.chance.below(40)) } else { PATIENCE };
        let answer = self.door.call(request, self.pick(2), patience).await;
        match &answer {
            Ok(reply) => {
                self.ledger.note(format!("answer {} to {method} {path}", reply.status));
                if reply.status == 503 && !reply.headers.contains_key("retry-after") {
                    self.ledger.fault(format!("503 without Retry-After to {method} {path}"));
                }
                if reply.status == 500 {
                    let text = String::from_utf8_lossy(&reply.body).into_owned();
                    self.ledger.fault(format!("500 to {method} {path}: {text}"));
                }
            }
            Err(no) => self.ledger.note(format!("{no:?}: {method} {path}")),
        }
        answer
    }

    /// One of `count`.
    fn pick(&self, count: usize) -> usize {
        usize::try_from(self.chance.below(count as u64)).unwrap_or(0)
    }

    /// A wait of up to `most_ms`.
    async fn wait(&self, most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.chance.below(most_ms + 1))).await;
    }

    /// Sends a request again and again until it is answered with something other than 503.
    async fn insist(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        loop {
            match self.send(method, path, headers, body.to_owned()).await {
                Ok(reply) if reply.status != 503 => return reply,
                _ => self.wait(4_000).await,
            }
        }
    }
}
