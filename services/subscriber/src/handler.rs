//! Storing a batch: one insert, and what its answers mean for each message.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidings_domain::{
    Error, ErrorKind, Result,
    backoff::Backoff,
    dead_letter::reason,
    message::Message,
    ports::{Clock, Entropy, Inserted, Items, NewItem, Queue, Received},
    wire::{self, Undecodable},
};
use tidings_runtime::{
    handler::{Handler, Reject, Verdict},
    metrics::{Step, Waits},
    telemetry::Telemetry,
};

use crate::Context;

/// Inserts whose answer was lost in a row before the store counts as away: an insert may be repeated, so a lost
/// answer is neither a failed attempt nor a reason to give a message up.
const UNKNOWN_IN_A_ROW: u32 = 3;

/// The waits between them.
const AFTER_UNKNOWN: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_millis(500) };

/// Stores messages.
pub(crate) struct Store {
    items: Arc<dyn Items>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    telemetry: Telemetry,
    waited: Waits,
    stored: Waits,
}

impl Store {
    pub(crate) fn new(context: &Context) -> Self {
        Self {
            items: Arc::clone(&context.items),
            clock: Arc::clone(&context.clock),
            entropy: Arc::clone(&context.entropy),
            telemetry: context.telemetry.clone(),
            waited: Waits::in_queue(&context.telemetry.meter, Queue::Items),
            stored: Waits::of_step(&context.telemetry.meter, Step::Stored),
        }
    }

    /// Inserts; where the store refuses a batch, each row by itself, so that only the one to blame is refused.
    async fn store(&self, rows: &[NewItem]) -> Vec<Verdict> {
        match self.insert(rows).await {
            Ok(inserted) => rows.iter().zip(inserted).map(|(row, inserted)| stored(row, inserted)).collect(),
            Err(error) if error.kind == ErrorKind::Rejected && rows.len() > 1 => {
                let mut verdicts = Vec::with_capacity(rows.len());
                for row in rows {
                    let verdict = match self.insert(std::slice::from_ref(row)).await {
                        Ok(inserted) => inserted.first().map(|inserted| stored(row, *inserted)),
                        Err(error) => Some(failed(row, &error)),
                    };
                    verdicts.extend(verdict);
                }
                verdicts
            }
            Err(error) => rows.iter().map(|row| failed(row, &error)).collect(),
        }
    }

    /// One insert, repeated while its answer is lost.
    async fn insert(&self, rows: &[NewItem]) -> Result<Vec<Inserted>> {
        let mut unknown = 0;
        loop {
            let mut span = None;
            if self.telemetry.is_recording() {
                let causes: Vec<_> = rows.iter().map(|row| row.message.trace.clone()).collect();
                span = Some(self.telemetry.statement_span("INSERT", "items", &causes));
            }
            let result = self.items.insert(rows).await;
            if let (Err(error), Some(span)) = (&result, &mut span) {
                span.fail(error.kind.as_str(), error.context.as_str());
            }
            match result {
                Err(error) if error.kind == ErrorKind::Unknown => {
                    unknown += 1;
                    tracing::warn!(rows = rows.len(), error = error.chain(), "an insert's answer was lost");
                    if unknown >= UNKNOWN_IN_A_ROW {
                        return Err(Error::unavailable("insert items: no answer comes").with_source(error));
                    }
                    tokio::time::sleep(AFTER_UNKNOWN.wait(unknown, &*self.entropy)).await;
                }
                Ok(inserted) => {
                    let now = self.clock.now();
                    for (row, _) in rows.iter().zip(&inserted).filter(|(_, it)| **it == Inserted::New) {
                        self.stored.ended(row.message.accepted_at, now);
                    }
                    return Ok(inserted);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[async_trait]
impl Handler for Store {
    async fn handle(&self, batch: &[Received]) -> Vec<Verdict> {
        let now = self.clock.now();
        let mut rows = Vec::with_capacity(batch.len());
        let mut verdicts: Vec<Option<Verdict>> = Vec::with_capacity(batch.len());
        for received in batch {
            match wire::message::decode(&received.envelope, now) {
                Ok(message) => {
                    self.waited.ended(message.accepted_at, now);
                    rows.push(NewItem { message, stored_at: now });
                    verdicts.push(None);
                }
                Err(undecodable) => verdicts.push(Some(refused(undecodable))),
            }
        }
        if rows.is_empty() {
            return verdicts.into_iter().flatten().collect();
        }
        let mut stored = self.store(&rows).await.into_iter();
        verdicts.into_iter().filter_map(|verdict| verdict.or_else(|| stored.next())).collect()
    }

    async fn probe(&self) -> Result<()> {
        self.items.ping().await
    }
}

fn refused(undecodable: Undecodable) -> Verdict {
    Verdict::DeadLetter(Reject {
        reason: undecodable.reason,
        detail: undecodable.detail,
        message_id: None,
        topic: None,
    })
}

fn stored(row: &NewItem, inserted: Inserted) -> Verdict {
    match inserted {
        Inserted::New | Inserted::AlreadyThere => Verdict::Done,
        Inserted::Conflict => {
            let detail = "an item with this id is stored already and says something else".to_owned();
            reject(&row.message, reason::CONFLICT, detail)
        }
    }
}

/// What an insert's error means for one of its rows.
fn failed(row: &NewItem, error: &Error) -> Verdict {
    match error.kind {
        ErrorKind::Rejected | ErrorKind::Conflict => {
            let detail = format!("the store refuses the row: {}", error.context);
            reject(&row.message, reason::REJECTED, detail)
        }
        // Nothing was tried, or it cannot be told whether: no attempt of a message's own.
        ErrorKind::Unavailable
        | ErrorKind::Misconfigured
        | ErrorKind::NotFound
        | ErrorKind::Unknown
        | ErrorKind::LeaseLost
        | ErrorKind::Gap => Verdict::Unavailable { detail: error.chain() },
        ErrorKind::Transient => Verdict::Retry { detail: error.chain() },
    }
}

fn reject(message: &Message, reason: &'static str, detail: String) -> Verdict {
    let (message_id, topic) = (Some(message.id.uuid()), Some(message.topic.clone()));
    Verdict::DeadLetter(Reject { reason, detail, message_id, topic })
}
