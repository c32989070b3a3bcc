//! The ports whose calls each stand for themselves.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use tidings_domain::{
    Result,
    api_key::{ApiKey, KeyHash},
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource},
    delivery::{Claim, ClaimedDelivery, Delivery, DeliveryKey, LeaseToken, Outcome, Sending},
    id::{ApiKeyId, DeadLetterId, MessageId, SubscriptionId},
    item::Item,
    notification::{Cursor, Notification, Plan, Planned},
    page::{Page, PageRequest},
    ports::{
        Admission, Catalog, ClaimedDeadLetter, DeadLetterDepth, DeadLetters, Deliveries, Expired, Inserted,
        Installation, ItemQuery, Items, Limits, MissingTopology, NewItem, RemovedTopic, Request,
        SubscriptionQuery, Subscriptions, Topology,
    },
    status::{DeliveryCounts, Timeline},
    subscription::{Act, Acted, Requested, Subscription, SubscriptionCounts, SubscriptionRequest},
    time::Timestamp,
    topic::{Topic, TopicName},
    trace_context::TraceContext,
};
use uuid::Uuid;

use super::Faulty;

macro_rules! decorate {
    ($port:ident { $(fn $name:ident($($argument:ident: $type:ty),* $(,)?) -> $answer:ty;)+ }) => {
        #[async_trait]
        impl $port for Faulty<dyn $port> {
            $(
                async fn $name(&self, $($argument: $type),*) -> Result<$answer> {
                    let operation = concat!(stringify!($port), "::", stringify!($name));
                    self.faults.call(operation, self.inner.$name($($argument),*)).await
                }
            )+
        }
    };
}

decorate!(Topology {
    fn declare(topics: &[TopicName]) -> ();
    fn verify(topics: &[TopicName]) -> Vec<MissingTopology>;
});

decorate!(Items {
    fn insert(batch: &[NewItem]) -> Vec<Inserted>;
    fn get(ids: &[MessageId]) -> Vec<Option<Item>>;
    fn list(query: &ItemQuery) -> Page<Item>;
    fn expire(before: Timestamp, max: u32) -> Expired;
    fn ping() -> ();
});

decorate!(Catalog {
    fn installation() -> Option<Installation>;
    fn put_topic(topic: &Topic) -> (Topic, bool);
    fn topic(name: &TopicName) -> Option<Topic>;
    fn topics() -> Vec<Topic>;
    fn remove_topic(name: &TopicName) -> RemovedTopic;
    fn put_key(key: &ApiKey) -> ();
    fn key(hash: &KeyHash) -> Option<ApiKey>;
    fn keys() -> Vec<ApiKey>;
    fn remove_key(id: ApiKeyId) -> bool;
});

decorate!(Subscriptions {
    fn request(request: &SubscriptionRequest, trace: &TraceContext) -> Requested;
    fn act(id: SubscriptionId, act: Act, generation: u32, at: Timestamp) -> Acted;
    fn get(ids: &[SubscriptionId]) -> Vec<Option<Subscription>>;
    fn list(query: &SubscriptionQuery) -> Page<Subscription>;
    fn remove(id: SubscriptionId) -> bool;
    fn confirmed(topic: &TopicName, after: Option<SubscriptionId>, limit: u32) -> Vec<Subscription>;
    fn counts() -> BTreeMap<TopicName, SubscriptionCounts>;
});

decorate!(Deliveries {
    fn expansions(notifications: &[Notification]) -> Vec<Cursor>;
    fn rounds(items: &[MessageId]) -> Vec<u32>;
    fn plan(plans: Vec<Plan>) -> Vec<Planned>;
    fn claim(max: u32, claim: &Claim) -> Vec<ClaimedDelivery>;
    fn next_due() -> Option<Timestamp>;
    fn sending(held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Vec<Sending>;
    fn extend(held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Vec<bool>;
    fn settle(outcomes: Vec<(DeliveryKey, LeaseToken, Outcome)>, at: Timestamp) -> Vec<Result<()>>;
    fn revive(keys: &[DeliveryKey], due_at: Timestamp) -> ();
    fn timelines(ids: &[MessageId]) -> Vec<Timeline>;
    fn list(about: Uuid, page: &PageRequest) -> Page<Delivery>;
    fn counts() -> DeliveryCounts;
    fn ping() -> ();
});

decorate!(DeadLetters {
    fn put(letters: Vec<DeadLetter>) -> ();
    fn list(selection: &DeadLetterSelection, page: &PageRequest) -> Page<DeadLetter>;
    fn mark(selection: &DeadLetterSelection, at: Timestamp) -> u64;
    fn count(selection: &DeadLetterSelection) -> u64;
    fn discard(selection: &DeadLetterSelection) -> u64;
    fn claim(
        source: DeadLetterSource,
        max: u32,
        token: LeaseToken,
        at: Timestamp,
        lease: Duration,
    ) -> Vec<ClaimedDeadLetter>;
    fn settle(settled: Vec<(DeadLetterId, LeaseToken, Option<DeadLetter>)>) -> ();
    fn depths() -> Vec<DeadLetterDepth>;
});

decorate!(Limits {
    fn admit(request: &Request, at: Timestamp) -> Admission;
    fn forget(ids: &[MessageId]) -> ();
    fn accepted(ids: &[MessageId], at: Timestamp) -> ();
    fn is_accepted(ids: &[MessageId]) -> Vec<Option<Timestamp>>;
});
