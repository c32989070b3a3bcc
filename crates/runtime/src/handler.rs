//! What a service does with what a queue hands out.

use async_trait::async_trait;
use tidings_domain::{Result, dead_letter::DeadLetter, ports::Received, topic::TopicName};
use uuid::Uuid;

/// The work of one queue: plain functions on a batch. Only the consume loop turns verdicts into settlements, retries
/// and dead letters.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Handles `batch` and answers for each, in order. The loop may call it concurrently, calls it again for entries
    /// that are to be tried again, and entry by entry after a batch that failed whole (all *retry*, a panic, a wrong
    /// number of verdicts). Effects are durable before their *done* is answered. A panic counts as a failed attempt
    /// once its entry is alone.
    ///
    /// Where spans are recorded, the `traceparent` that an entry carries is that of its own process span, which the
    /// loop begins as a child of the producer's and ends when the message is dealt with. So a handler makes no process
    /// span: what it decodes is already the context to pass on.
    async fn handle(&self, batch: &[Received]) -> Vec<Verdict>;

    /// Whether work could be tried now: the probe after *unavailable*. Writes nothing, takes no message.
    async fn probe(&self) -> Result<()>;

    /// Handles dead letters of this source that were marked for redrive; by default they are handled as what they were
    /// when they came (see [`crate::letter::received`]).
    async fn redrive(&self, letter: &DeadLetter) -> Verdict {
        let received = crate::letter::received(letter);
        let missing = || Verdict::Retry { detail: "the handler gave no verdict".to_owned() };
        self.handle(std::slice::from_ref(&received)).await.pop().unwrap_or_else(missing)
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
