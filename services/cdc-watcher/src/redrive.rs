//! Publishing again what was a dead letter.

use std::sync::Arc;

use async_trait::async_trait;
use tidings_domain::{
    Error, ErrorKind, Result,
    dead_letter::{DeadLetter, reason},
    ports::{Bus, BusTopic, Clock, Received},
    wire::{self, Envelope},
};
use tidings_runtime::{
    handler::{Handler, Reject, Verdict},
    letter::received,
};

/// Publishes records as they are.
pub(crate) struct Republish {
    bus: Arc<dyn Bus>,
    clock: Arc<dyn Clock>,
}

impl Republish {
    pub(crate) fn new(bus: Arc<dyn Bus>, clock: Arc<dyn Clock>) -> Self {
        Self { bus, clock }
    }

    async fn publish(&self, envelope: &Envelope) -> Verdict {
        if let Err(undecodable) = wire::change::decode(envelope, self.clock.now()) {
            return dead(undecodable.reason, undecodable.detail);
        }
        let record = Envelope { native_id: None, published_to: None, ..envelope.clone() };
        let mut answers = self.bus.publish(&BusTopic::Notifications, vec![record]).await;
        match answers.pop() {
            Some(Ok(())) => Verdict::Done,
            Some(Err(error)) => failed(&error),
            None => Verdict::Unavailable { detail: "the bus gave no answer".to_owned() },
        }
    }
}

#[async_trait]
impl Handler for Republish {
    async fn handle(&self, batch: &[Received]) -> Vec<Verdict> {
        let mut verdicts = Vec::with_capacity(batch.len());
        for received in batch {
            verdicts.push(self.publish(&received.envelope).await);
        }
        verdicts
    }

    /// A row that could not be read was never a record: no redrive makes one of it.
    async fn redrive(&self, letter: &DeadLetter) -> Verdict {
        if letter.reason == reason::UNDECODABLE && !letter.headers.contains_key(wire::header::EVENT) {
            return dead(
                reason::UNDECODABLE,
                "the item's row cannot be read, and no redrive publishes it: publish the message anew under another id"
                    .to_owned(),
            );
        }
        self.publish(&received(letter).envelope).await
    }

    /// The bus has no call that only asks: the next publish tells.
    async fn probe(&self) -> Result<()> {
        Ok(())
    }
}

/// Only a refusal says something of the record; everything else is tried again, the letter staying marked.
fn failed(error: &Error) -> Verdict {
    match error.kind {
        ErrorKind::Rejected => {
            dead(reason::REJECTED, format!("the bus refuses the record: {}", error.context))
        }
        _ => Verdict::Unavailable { detail: error.to_string() },
    }
}

fn dead(reason: &'static str, detail: String) -> Verdict {
    Verdict::DeadLetter(Reject { reason, detail, message_id: None, topic: None })
}
