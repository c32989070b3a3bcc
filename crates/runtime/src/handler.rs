//! What a service does with what a queue hands out.

use async_trait::async_trait;
use tidings_domain::{Result, dead_letter::DeadLetter, ports::Received, topic::TopicName};
use uuid::Uuid;

/// The work of one queue: plain functions on a batch. Only the consume loop turns verdicts into settlements, retries
/// and dead letters.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles `batch` and answers for each, in order. The loop may call it concurrently, calls it again for entries
    /// that are to be tried again, and entry by entry after a batch that failed whole. Effects are durable before
    /// their *done* is answered. A panic counts as a failed attempt of each entry.
    async fn handle(&self, batch: &[Received]) -> Vec<Verdict>;

    /// Whether work could be tried now: the probe after *unavailable*. Writes nothing, takes no message.
    async fn probe(&self) -> Result<()>;

    /// Handles dead letters of this source that were marked for redrive; by default they are handled as what they were
    /// when they came, an envelope of their headers and body.
    async fn redrive(&self, letter: &DeadLetter) -> Verdict {
        let received = Received {
            envelope: tidings_domain::wire::Envelope {
                headers: letter.headers.clone(),
                body: letter.body.clone(),
                native_id: letter.message_id.map(|id| id.to_string()),
                published_to: letter.topic.clone(),
            },
            returns: 0,
            lease: tidings_domain::ports::Lease { epoch: 0, tag: 0 },
        };
        self.handle(std::slice::from_ref(&received)).await.pop().unwrap_or(Verdict::Done)
    }
}

/// What a handler says of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dealt with, durably.
    Done,
    /// This message failed: tried again in process with back-off while its lease is renewed, a few times, then a dead
    /// letter.
    Retry {
        /// Why, for the log and in the end the dead letter.
        detail: String,
    },
    /// It cannot go on.
    DeadLetter(Reject),
    /// Nothing could be tried: no attempt is counted, the loop stops taking, releases what it holds and probes.
    Unavailable {
        /// What is waited for.
        detail: String,
    },
}

/// Why a message is a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// One of [`tidings_domain::dead_letter::reason`].
    pub reason: &'static str,
    /// Why, in a sentence, without addresses.
    pub detail: String,
    /// The message's id, where it is known better than the headers say.
    pub message_id: Option<Uuid>,
    /// Its topic, where it is known better than the headers say.
    pub topic: Option<TopicName>,
}
