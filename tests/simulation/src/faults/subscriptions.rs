//! `Subscriptions`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tidings_domain::{
    Result,
    id::SubscriptionId,
    page::Page,
    ports::{SubscriptionQuery, Subscriptions},
    subscription::{Act, Acted, Requested, Subscription, SubscriptionCounts, SubscriptionRequest},
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};

use super::Faulty;

#[async_trait]
impl Subscriptions for Faulty<dyn Subscriptions> {
    async fn request(&self, request: &SubscriptionRequest, trace: &TraceContext) -> Result<Requested> {
        self.line.call("request subscription", self.inner.request(request, trace)).await
    }

    async fn act(&self, id: SubscriptionId, act: Act, generation: u32, at: Timestamp) -> Result<Acted> {
        self.line.call("act on subscription", self.inner.act(id, act, generation, at)).await
    }

    async fn get(&self, ids: &[SubscriptionId]) -> Result<Vec<Option<Subscription>>> {
        self.line.call("get subscriptions", self.inner.get(ids)).await
    }

    async fn list(&self, query: &SubscriptionQuery) -> Result<Page<Subscription>> {
        self.line.call("list subscriptions", self.inner.list(query)).await
    }

    async fn remove(&self, id: SubscriptionId) -> Result<bool> {
        self.line.call("remove subscription", self.inner.remove(id)).await
    }

    async fn confirmed(
        &self,
        topic: &TopicName,
        after: Option<SubscriptionId>,
        limit: u32,
    ) -> Result<Vec<Subscription>> {
        self.line.call("page of subscriptions", self.inner.confirmed(topic, after, limit)).await
    }

    async fn counts(&self) -> Result<BTreeMap<TopicName, SubscriptionCounts>> {
        self.line.call("count subscriptions", self.inner.counts()).await
    }
}
