use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::{
    Result,
    address::EmailAddress,
    id::SubscriptionId,
    page::{Page, PageRequest},
    subscription::{
        Act, Acted, Requested, Subscription, SubscriptionCounts, SubscriptionRequest, SubscriptionState,
    },
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};

/// Which subscriptions are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionQuery {
    /// Of this topic.
    pub topic: Option<TopicName>,
    /// Of this address.
    pub email: Option<EmailAddress>,
    /// In this state.
    pub state: Option<SubscriptionState>,
    /// Which page.
    pub page: PageRequest,
}

/// Who is subscribed to what. An address is here and nowhere else.
#[async_trait]
pub trait Subscriptions: Send + Sync {
    /// Reads the row of (topic, address), decides by [`crate::subscription::decide_request`], writes the row and, when
    /// mail is due, the confirmation's delivery (see [`crate::subscription::confirmation`]), all in one transaction.
    async fn request(&self, request: &SubscriptionRequest, trace: &TraceContext) -> Result<Requested>;

    /// Reads the row, decides by [`crate::subscription::decide_act`], writes it, in one transaction.
    async fn act(&self, id: SubscriptionId, act: Act, generation: u32, at: Timestamp) -> Result<Acted>;

    /// The rows of `ids`, in order; none where there is no row, or one that a hand in the store has made unreadable.
    async fn get(&self, ids: &[SubscriptionId]) -> Result<Vec<Option<Subscription>>>;

    /// A page, newest `created_at` first, then by id.
    async fn list(&self, query: &SubscriptionQuery) -> Result<Page<Subscription>>;

    /// Removes the row and with it the address; false when there was none. Open deliveries to it end as suppressed.
    async fn remove(&self, id: SubscriptionId) -> Result<bool>;

    /// The confirmed subscriptions of `topic` with an id after `after`, by id, at most `limit`: the page to plan from.
    /// One that is confirmed throughout is in exactly one of consecutive pages. A row that cannot be read is in none, and
    /// holds up nobody: a page of fewer than `limit` is the last.
    async fn confirmed(
        &self,
        topic: &TopicName,
        after: Option<SubscriptionId>,
        limit: u32,
    ) -> Result<Vec<Subscription>>;

    /// How many subscriptions each topic has; topics without any are absent.
    async fn counts(&self) -> Result<BTreeMap<TopicName, SubscriptionCounts>>;
}
