//! Planted bugs: what the services would do if they broke a promise, as decorators between them and their ports. Only
//! tests ask for one; each has to be caught.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tidings_domain::{
    ErrorKind, Result,
    delivery::{Claim, ClaimedDelivery, Delivery, DeliveryKey, LeaseToken, Outcome, Sending},
    id::MessageId,
    item::Item,
    notification::{Cursor, Notification, Plan, Planned},
    page::{Page, PageRequest},
    ports::{
        Bus, BusCapabilities, BusTopic, Captured, ChangeStream, Changes, Consumer, Deliveries, Expired,
        Inserted, ItemQuery, Items, Mail, MailEnvelope, MailError, MailErrorClass, MailTransaction, NewItem,
        Position, Queue, StreamHold,
    },
    status::{DeliveryCounts, Timeline},
    time::Timestamp,
    wire::Envelope,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::plan::Weather;

/// A planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The subscriber acknowledges before the insert.
    AckBeforeInsert,
    /// The cdc-watcher confirms the position before the publish.
    ConfirmBeforePublish,
    /// The mailer sends with no record of `sending`.
    SendWithoutRecord,
    /// The mailer counts an outage as an attempt.
    OutageCounted,
    /// The mailer acknowledges a notification before its last page.
    AckBeforeLastPage,
    /// The mailer takes a delivery that may have been sent for one that was not.
    UnknownForgotten,
    /// The api takes an unknown outcome of a publish for a confirm.
    UnknownAccepted,
}

impl Mutant {
    /// The weather in which it shows; none where it shows in any.
    pub fn weather(self) -> Option<Weather> {
        match self {
            Self::AckBeforeInsert | Self::ConfirmBeforePublish => Some(Weather::Storm),
            Self::UnknownForgotten | Self::UnknownAccepted => Some(Weather::Storm),
            Self::OutageCounted => Some(Weather::Outages),
            Self::SendWithoutRecord | Self::AckBeforeLastPage => None,
        }
    }
}

/// Ports through which a bug is planted.
pub(crate) struct Mutated<P: ?Sized> {
    inner: Arc<P>,
    mutant: Option<Mutant>,
    later: Mutex<JoinSet<()>>,
}

impl<P: ?Sized> Mutated<P> {
    pub(crate) fn new(inner: Arc<P>, mutant: Option<Mutant>) -> Arc<Self> {
        Arc::new(Self { inner, mutant, later: Mutex::default() })
    }

    fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }
}

#[async_trait]
impl Items for Mutated<dyn Items> {
    async fn insert(&self, batch: &[NewItem]) -> Result<Vec<Inserted>> {
        if !self.is(Mutant::AckBeforeInsert) {
            return self.inner.insert(batch).await;
        }
        // The process remembers it and means to write it in a moment.
        let (inner, batch) = (Arc::clone(&self.inner), batch.to_vec());
        let size = batch.len();
        self.later.lock().unwrap_or_else(PoisonError::into_inner).spawn(async move {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let _nobody_looks = inner.insert(&batch).await;
        });
        Ok(vec![Inserted::New; size])
    }

    async fn get(&self, ids: &[MessageId]) -> Result<Vec<Option<Item>>> {
        self.inner.get(ids).await
    }

    async fn list(&self, query: &ItemQuery) -> Result<Page<Item>> {
        self.inner.list(query).await
    }

    async fn expire(&self, before: Timestamp, max: u32) -> Result<Expired> {
        self.inner.expire(before, max).await
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
}

#[async_trait]
impl Bus for Mutated<dyn Bus> {
    async fn publish(&self, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        let mut answers = self.inner.publish(topic, batch).await;
        if self.is(Mutant::UnknownAccepted) && matches!(topic, BusTopic::Messages(_)) {
            for answer in &mut answers {
                if answer.as_ref().is_err_and(|error| error.kind == ErrorKind::Unknown) {
                    *answer = Ok(());
                }
            }
        }
        answers
    }

    async fn consume(&self, queue: Queue, prefetch: usize) -> Result<Box<dyn Consumer>> {
        self.inner.consume(queue, prefetch).await
    }

    fn capabilities(&self) -> BusCapabilities {
        self.inner.capabilities()
    }
}

#[async_trait]
impl Changes for Mutated<dyn Changes> {
    async fn open(&self) -> Result<Box<dyn ChangeStream>> {
        let inner = self.inner.open().await?;
        if self.is(Mutant::ConfirmBeforePublish) { Ok(Box::new(HastyStream { inner })) } else { Ok(inner) }
    }

    fn is_standing_by(&self) -> bool {
        self.inner.is_standing_by()
    }

    async fn backlog(&self) -> Result<u64> {
        self.inner.backlog().await
    }
}

struct HastyStream {
    inner: Box<dyn ChangeStream>,
}

#[async_trait]
impl ChangeStream for HastyStream {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Captured>> {
        let captured = self.inner.next(max, wait).await?;
        if let Some(last) = captured.last() {
            self.inner.confirm(last.position).await?;
        }
        Ok(captured)
    }

    async fn confirm(&mut self, _up_to: Position) -> Result<()> {
        Ok(())
    }

    fn hold(&self) -> Arc<dyn StreamHold> {
        self.inner.hold()
    }
}

#[async_trait]
impl Deliveries for Mutated<dyn Deliveries> {
    async fn expansions(&self, notifications: &[Notification]) -> Result<Vec<Cursor>> {
        self.inner.expansions(notifications).await
    }

    async fn rounds(&self, items: &[MessageId]) -> Result<Vec<u32>> {
        self.inner.rounds(items).await
    }

    async fn plan(&self, mut plans: Vec<Plan>) -> Result<Vec<Planned>> {
        if self.is(Mutant::AckBeforeLastPage) {
            plans.iter_mut().for_each(|plan| plan.to = Cursor::Finished);
        }
        self.inner.plan(plans).await
    }

    async fn claim(&self, max: u32, claim: &Claim) -> Result<Vec<ClaimedDelivery>> {
        let mut claimed = self.inner.claim(max, claim).await?;
        if self.is(Mutant::UnknownForgotten) {
            claimed.iter_mut().for_each(|claimed| claimed.unknown = false);
        }
        Ok(claimed)
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        self.inner.next_due().await
    }

    async fn sending(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<Sending>> {
        if self.is(Mutant::SendWithoutRecord) {
            return Ok(vec![Sending::Recorded; held.len()]);
        }
        self.inner.sending(held, until).await
    }

    async fn extend(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<bool>> {
        self.inner.extend(held, until).await
    }

    async fn settle(
        &self,
        outcomes: Vec<(DeliveryKey, LeaseToken, Outcome)>,
        at: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.inner.settle(outcomes, at).await
    }

    async fn revive(&self, keys: &[DeliveryKey], due_at: Timestamp) -> Result<()> {
        self.inner.revive(keys, due_at).await
    }

    async fn timelines(&self, ids: &[MessageId]) -> Result<Vec<Timeline>> {
        self.inner.timelines(ids).await
    }

    async fn list(&self, about: Uuid, page: &PageRequest) -> Result<Page<Delivery>> {
        self.inner.list(about, page).await
    }

    async fn counts(&self) -> Result<DeliveryCounts> {
        self.inner.counts().await
    }

    async fn ping(&self) -> Result<()> {
        self.inner.ping().await
    }
}

#[async_trait]
impl Mail for Mutated<dyn Mail> {
    async fn begin(
        &self,
        envelope: &MailEnvelope,
    ) -> std::result::Result<Box<dyn MailTransaction>, MailError> {
        self.inner.begin(envelope).await.map_err(|mut error| {
            if self.is(Mutant::OutageCounted) && error.class == MailErrorClass::Unavailable {
                error.class = MailErrorClass::Transient;
            }
            error
        })
    }

    async fn ping(&self) -> std::result::Result<(), MailError> {
        self.inner.ping().await
    }
}
