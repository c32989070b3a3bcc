//! Dead letters of deliveries, and their redrive.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidings_domain::{
    Result,
    dead_letter::{DeadLetter, DeadLetterSource},
    delivery::{Answer, Delivery, DeliveryKind, Outcome},
    id::DeadLetterId,
    ports::{Clock, Deliveries, Entropy, Received},
};
use tidings_runtime::handler::{Handler, Reject, Verdict};

/// `delivery` given up for `reason`. Its letter has an id of its own each time: the row can fail again after a redrive
/// before the first letter is gone.
pub(crate) fn failed(
    delivery: &Delivery,
    reason: &str,
    detail: String,
    answer: Option<Answer>,
    unknown: bool,
    clock: &dyn Clock,
    entropy: &dyn Entropy,
) -> Outcome {
    let dead_letter = DeadLetter {
        id: DeadLetterId::new(clock, entropy),
        source: DeadLetterSource::Deliveries,
        topic: Some(delivery.topic.clone()),
        message_id: (delivery.kind == DeliveryKind::Item).then_some(delivery.key.about),
        delivery: Some(delivery.key),
        reason: reason.to_owned(),
        detail,
        headers: std::collections::BTreeMap::new(),
        body: Bytes::new(),
        attempts: delivery.attempts + u32::from(answer.is_some()),
        created_at: clock.now(),
        marked_at: None,
    };
    Outcome::Failed { answer, unknown, dead_letter: Box::new(dead_letter) }
}

/// Redrives deliveries: a failed one is due again, with its attempts beginning anew.
pub(crate) struct Revive {
    pub(crate) deliveries: Arc<dyn Deliveries>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Told when something is due.
    pub(crate) outbox: Arc<crate::outbox::Outbox>,
}

#[async_trait]
impl Handler for Revive {
    async fn handle(&self, batch: &[Received]) -> Vec<Verdict> {
        // Deliveries are rows; no queue carries them.
        let detail = || {
            Verdict::DeadLetter(Reject {
                reason: tidings_domain::dead_letter::reason::UNDECODABLE,
                detail: "a delivery comes from its table, not from a queue".to_owned(),
                message_id: None,
                topic: None,
            })
        };
        batch.iter().map(|_| detail()).collect()
    }

    async fn probe(&self) -> Result<()> {
        self.deliveries.ping().await
    }

    async fn redrive(&self, letter: &DeadLetter) -> Verdict {
        let Some(key) = letter.delivery else {
            return Verdict::DeadLetter(Reject {
                reason: tidings_domain::dead_letter::reason::UNDECODABLE,
                detail: "the letter names no delivery".to_owned(),
                message_id: letter.message_id,
                topic: letter.topic.clone(),
            });
        };
        match self.deliveries.revive(&[key], self.clock.now()).await {
            Ok(()) => {
                self.outbox.planned_unclaimed();
                Verdict::Done
            }
            Err(error) => crate::verdict_of(&error),
        }
    }
}
