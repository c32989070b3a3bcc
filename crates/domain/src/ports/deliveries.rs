use async_trait::async_trait;
use uuid::Uuid;

use crate::{
    Result,
    delivery::{Claim, ClaimedDelivery, Delivery, DeliveryKey, LeaseToken, Outcome, Sending},
    id::MessageId,
    notification::{Cursor, Notification, Plan, Planned},
    page::{Page, PageRequest},
    status::{DeliveryCounts, Timeline},
    time::Timestamp,
};

/// Notifications and deliveries: the queue of mails, and what was mailed.
#[async_trait]
pub trait Deliveries: Send + Sync {
    /// Where the expansion of each notification stands, in order. A notification without a row, or whose `replay` is a
    /// new one, stands at [`Cursor::Start`]. Writes nothing.
    async fn expansions(&self, notifications: &[Notification]) -> Result<Vec<Cursor>>;

    /// In how many rounds each item was notified, in order: one more than the highest round that has a notification's row, 0
    /// where there is none. A round of this number is a new one. Writes nothing.
    async fn rounds(&self, items: &[MessageId]) -> Result<Vec<u32>>;

    /// Writes each page: its notification's row (captured and published times of the first publish stay; the replay is
    /// the newest), its deliveries that have no row yet, the cursor and the count of planned rows, all or none for each
    /// plan; answers in order. A repeated page changes nothing. The cursor never moves back but by a new replay.
    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Planned>>;

    /// Leases up to `max` due deliveries, oldest due first: pending and due with no live lease, and `sending` with its
    /// lease run out, whose outcome is unknown (an attempt and an unknown are counted by the claim). Two claimers never
    /// hold one delivery.
    async fn claim(&self, max: u32, claim: &Claim) -> Result<Vec<ClaimedDelivery>>;

    /// When the next delivery is due or its lease runs out: how long a mailer may sleep. None when nothing is open.
    async fn next_due(&self) -> Result<Option<Timestamp>>;

    /// Records `sending` for each held delivery, one conditional write by its token: durable before DATA. It **is** the
    /// lease check and the last look at the subscription (for an item: confirmed; for a confirmation: pending and of
    /// the generation that is the round). Extends the lease to `until`. Answers in order.
    async fn sending(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<Sending>>;

    /// Extends each held lease to `until`; false where it is lost. Answers in order.
    async fn extend(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<bool>>;

    /// Ends each held delivery's attempt by [`crate::delivery::after`] and gives up its lease; a failed one gets its dead
    /// letter in the same transaction. Answers in order: *lease lost* where the token is no longer the row's (nothing
    /// changed). Settling the same outcome by the same token a second time is Ok and changes nothing more where the
    /// store can tell, else *lease lost*.
    async fn settle(
        &self,
        outcomes: Vec<(DeliveryKey, LeaseToken, Outcome)>,
        at: Timestamp,
    ) -> Result<Vec<Result<()>>>;

    /// Makes failed deliveries due again, their attempts beginning anew: what a redrive does. Rows in another state
    /// stay as they are.
    async fn revive(&self, keys: &[DeliveryKey], due_at: Timestamp) -> Result<()>;

    /// What the store knows of each id, in order, in one query: rows of items, notifications, deliveries, dead letters.
    async fn timelines(&self, ids: &[MessageId]) -> Result<Vec<Timeline>>;

    /// The deliveries about an item (or a subscription's confirmations), newest first.
    async fn list(&self, about: Uuid, page: &PageRequest) -> Result<Page<Delivery>>;

    /// Deliveries that are open or were given up, by state, for readiness and metrics. Those that were sent are left out
    /// (`sent` is 0): a store would have to read them all, or keep a count in every write.
    async fn counts(&self) -> Result<DeliveryCounts>;

    /// Reads one row, as a probe.
    async fn ping(&self) -> Result<()>;
}
