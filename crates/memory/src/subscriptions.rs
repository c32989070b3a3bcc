//! `Subscriptions`.

use std::collections::BTreeMap;

use async_trait::async_trait;
use tidings_domain::{
    Result,
    delivery::DeliveryState,
    id::SubscriptionId,
    page::{Page, decode_cursor, encode_cursor},
    ports::{SubscriptionQuery, Subscriptions},
    subscription::{
        Act, Acted, Requested, Subscription, SubscriptionCounts, SubscriptionRequest, SubscriptionState,
        confirmation, decide_act, decide_request,
    },
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};

use crate::{Event, Memory, Part, shared::State};

impl State {
    fn write_subscription(&mut self, row: &Subscription, record: &dyn Fn(Event)) {
        self.addresses.insert((row.topic.clone(), row.email.clone()), row.id);
        self.subscriptions.insert(row.id, row.clone());
        record(Event::Subscription { id: row.id, state: Some(row.state) });
    }

    /// What is open to a removed subscription ends as suppressed; what is being sent ends by its own outcome.
    fn suppress(&mut self, id: SubscriptionId, record: &dyn Fn(Event)) {
        let of_it = |key: &&tidings_domain::delivery::DeliveryKey| key.subscription == id;
        for key in self.open.iter().filter(of_it).copied().collect::<Vec<_>>() {
            let Some(row) = self.deliveries.get_mut(&key) else { continue };
            if row.delivery.state == DeliveryState::Pending {
                row.delivery.state = DeliveryState::Suppressed;
                row.lease = None;
                self.open.remove(&key);
                let (attempts, unknowns) = (row.delivery.attempts, row.delivery.unknowns);
                record(Event::Settled { key, state: DeliveryState::Suppressed, attempts, unknowns });
            }
        }
    }
}

#[async_trait]
impl Subscriptions for Memory {
    async fn request(&self, request: &SubscriptionRequest, trace: &TraceContext) -> Result<Requested> {
        self.shared()
            .operate(Part::Store, |state, record| {
                let id = state.addresses.get(&(request.topic.clone(), request.email.clone()));
                let requested = decide_request(id.and_then(|id| state.subscriptions.get(id)), request);
                if requested.changed {
                    state.write_subscription(&requested.subscription, record);
                }
                if requested.mail {
                    state.add_delivery(confirmation(&requested.subscription, request.at, trace), None);
                }
                Ok(requested)
            })
            .await
    }

    async fn act(&self, id: SubscriptionId, act: Act, generation: u32, at: Timestamp) -> Result<Acted> {
        self.shared()
            .operate(Part::Store, move |state, record| {
                let acted = decide_act(state.subscriptions.get(&id), act, generation, at);
                if let Acted::Done(row) = &acted {
                    state.write_subscription(row, record);
                }
                Ok(acted)
            })
            .await
    }

    async fn get(&self, ids: &[SubscriptionId]) -> Result<Vec<Option<Subscription>>> {
        self.shared()
            .operate(Part::Store, |state, _| {
                Ok(ids.iter().map(|id| state.subscriptions.get(id).cloned()).collect())
            })
            .await
    }

    async fn list(&self, query: &SubscriptionQuery) -> Result<Page<Subscription>> {
        let after = query.page.cursor.as_deref().map(decode_cursor).transpose()?;
        self.shared()
            .operate(Part::Store, move |state, _| {
                let key = |row: &Subscription| (row.created_at.as_millis(), row.id.0);
                let mut rows: Vec<Subscription> = state
                    .subscriptions
                    .values()
                    .filter(|row| query.topic.as_ref().is_none_or(|topic| *topic == row.topic))
                    .filter(|row| query.email.as_ref().is_none_or(|email| *email == row.email))
                    .filter(|row| query.state.is_none_or(|state| state == row.state))
                    .filter(|row| after.is_none_or(|after| key(row) < after))
                    .cloned()
                    .collect();
                rows.sort_by_key(|row| std::cmp::Reverse(key(row)));
                Ok(Page::cut(rows, query.page.limit, |row| {
                    let (millis, id) = key(row);
                    encode_cursor(millis, id)
                }))
            })
            .await
    }

    async fn remove(&self, id: SubscriptionId) -> Result<bool> {
        self.shared()
            .operate(Part::Store, move |state, record| {
                let Some(row) = state.subscriptions.remove(&id) else { return Ok(false) };
                state.addresses.remove(&(row.topic, row.email));
                record(Event::Subscription { id, state: None });
                state.suppress(id, record);
                Ok(true)
            })
            .await
    }

    async fn confirmed(
        &self,
        topic: &TopicName,
        after: Option<SubscriptionId>,
        limit: u32,
    ) -> Result<Vec<Subscription>> {
        self.shared()
            .operate(Part::Store, move |state, _| {
                let from = match after {
                    Some(after) => std::ops::Bound::Excluded(after),
                    None => std::ops::Bound::Unbounded,
                };
                let rows = state.subscriptions.range((from, std::ops::Bound::Unbounded)).map(|(_, row)| row);
                let wanted =
                    rows.filter(|row| row.topic == *topic && row.state == SubscriptionState::Confirmed);
                Ok(wanted.take(limit as usize).cloned().collect())
            })
            .await
    }

    async fn counts(&self) -> Result<BTreeMap<TopicName, SubscriptionCounts>> {
        self.shared()
            .operate(Part::Store, |state, _| {
                let mut counts: BTreeMap<TopicName, SubscriptionCounts> = BTreeMap::new();
                for row in state.subscriptions.values() {
                    let count = counts.entry(row.topic.clone()).or_default();
                    match row.state {
                        SubscriptionState::Pending => count.pending += 1,
                        SubscriptionState::Confirmed => count.confirmed += 1,
                        SubscriptionState::Unsubscribed => count.unsubscribed += 1,
                    }
                }
                Ok(counts)
            })
            .await
    }
}
