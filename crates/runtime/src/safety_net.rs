//! Draining a broker's own dead-letter queue into the dead letters, where they are seen and redriven.

use std::sync::Arc;

use async_trait::async_trait;
use tidings_domain::{
    Result,
    dead_letter::{DeadLetterSelection, DeadLetterSource, reason},
    ports::{Bus, Clock, DeadLetters, Entropy, Queue, Received},
};

use crate::{
    consume::{ConsumeLoop, ConsumeSettings},
    handler::{Handler, Reject, Verdict},
    health::Part,
    shutdown::Shutdown,
    telemetry::Telemetry,
};

/// Drains a safety net ([`Queue::ItemsDead`], [`Queue::MailDead`]): each message becomes a dead letter with the reason
/// `returned_too_often`, is durable as such, and only then gone from the queue.
pub struct SafetyNetLoop {
    /// Its name in logs.
    pub name: &'static str,
    /// Where the queue is.
    pub bus: Arc<dyn Bus>,
    /// Which safety net.
    pub queue: Queue,
    /// The source of its dead letters: that of the queue which it is the net of.
    pub source: DeadLetterSource,
    /// Where they go.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The time that they are written.
    pub clock: Arc<dyn Clock>,
    /// Jitter and ids.
    pub entropy: Arc<dyn Entropy>,
    /// Limits and waits.
    pub settings: ConsumeSettings,
    /// What readiness shows.
    pub part: Part,
    /// Spans and metrics.
    pub telemetry: Telemetry,
}

impl SafetyNetLoop {
    /// Runs until `shutdown`: Ok after that.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        let handler = Arc::new(Net { dead_letters: Arc::clone(&self.dead_letters) });
        ConsumeLoop {
            name: self.name,
            bus: self.bus,
            queue: self.queue,
            source: self.source,
            handler,
            dead_letters: self.dead_letters,
            clock: self.clock,
            entropy: self.entropy,
            settings: self.settings,
            part: self.part,
            telemetry: self.telemetry,
        }
        .run(shutdown)
        .await
    }
}

struct Net {
    dead_letters: Arc<dyn DeadLetters>,
}

#[async_trait]
impl Handler for Net {
    async fn handle(&self, batch: &[Received]) -> Vec<Verdict> {
        batch.iter().map(verdict).collect()
    }

    async fn probe(&self) -> Result<()> {
        let none = DeadLetterSelection { ids: Some(Vec::new()), ..DeadLetterSelection::default() };
        self.dead_letters.count(&none).await.map(drop)
    }
}

fn verdict(_: &Received) -> Verdict {
    Verdict::DeadLetter(Reject {
        reason: reason::RETURNED_TOO_OFTEN,
        detail: "the broker handed it out and got it back too often".to_owned(),
        message_id: None,
        topic: None,
    })
}
