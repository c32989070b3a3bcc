//! `Deliveries`.

use async_trait::async_trait;
use tidings_domain::{
    Result,
    delivery::{Claim, ClaimedDelivery, Delivery, DeliveryKey, LeaseToken, Outcome, Sending},
    id::MessageId,
    notification::{Cursor, Notification, Plan, Planned},
    page::{Page, PageRequest},
    ports::Deliveries,
    status::{DeliveryCounts, Timeline},
    time::Timestamp,
};
use uuid::Uuid;

use super::Faulty;

#[async_trait]
impl Deliveries for Faulty<dyn Deliveries> {
    async fn expansions(&self, notifications: &[Notification]) -> Result<Vec<Cursor>> {
        self.line.call("read expansions", self.inner.expansions(notifications)).await
    }

    async fn rounds(&self, items: &[MessageId]) -> Result<Vec<u32>> {
        self.line.call("read rounds", self.inner.rounds(items)).await
    }

    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Planned>> {
        self.line.call("plan deliveries", self.inner.plan(plans)).await
    }

    async fn claim(&self, max: u32, claim: &Claim) -> Result<Vec<ClaimedDelivery>> {
        self.line.call("claim deliveries", self.inner.claim(max, claim)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        self.line.call("next due delivery", self.inner.next_due()).await
    }

    async fn sending(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<Sending>> {
        self.line.call("record sending", self.inner.sending(held, until)).await
    }

    async fn extend(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<bool>> {
        self.line.call("extend deliveries", self.inner.extend(held, until)).await
    }

    async fn settle(
        &self,
        outcomes: Vec<(DeliveryKey, LeaseToken, Outcome)>,
        at: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.line.call("settle deliveries", self.inner.settle(outcomes, at)).await
    }

    async fn revive(&self, keys: &[DeliveryKey], due_at: Timestamp) -> Result<()> {
        self.line.call("revive deliveries", self.inner.revive(keys, due_at)).await
    }

    async fn timelines(&self, ids: &[MessageId]) -> Result<Vec<Timeline>> {
        self.line.call("read timelines", self.inner.timelines(ids)).await
    }

    async fn list(&self, about: Uuid, page: &PageRequest) -> Result<Page<Delivery>> {
        self.line.call("list deliveries", self.inner.list(about, page)).await
    }

    async fn counts(&self) -> Result<DeliveryCounts> {
        self.line.call("count deliveries", self.inner.counts()).await
    }

    async fn ping(&self) -> Result<()> {
        self.line.call("ping deliveries", self.inner.ping()).await
    }
}
