//! Notifications: a change on its way to people, and how far its expansion into deliveries has come.

use serde::{Deserialize, Serialize};

use crate::{
    delivery::{Claim, DeliveryKey, NewDelivery},
    id::{MessageId, SubscriptionId},
    time::Timestamp,
    topic::TopicName,
};

/// What the mailer takes from the queue `tidings-mail`, without its item.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// The item.
    pub item: MessageId,
    /// 0; a replay to all is a new round.
    pub round: u32,
    /// The item's topic.
    pub topic: TopicName,
    /// Which replay published it; absent in a first publish. A new one expands the notification again.
    pub replay: Option<String>,
    /// When the watcher read the change.
    pub captured_at: Timestamp,
    /// When the watcher published it.
    pub published_at: Timestamp,
}

/// Where an expansion stands: the order of pages is the order of subscription ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cursor {
    /// Nothing planned.
    Start,
    /// Everyone up to this subscription was looked at.
    After(SubscriptionId),
    /// Everyone was: the notification is acknowledged without work.
    Finished,
}

/// One page of one notification, to be written all or none.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The notification; its row is written with its first page.
    pub notification: Notification,
    /// The cursor that the page was made from, as `expansions` gave it.
    pub from: Cursor,
    /// The deliveries, in order of their subscriptions.
    pub page: Vec<NewDelivery>,
    /// The cursor after it.
    pub to: Cursor,
    /// Lease the new rows at once.
    pub claim: Option<Claim>,
    /// When it is planned.
    pub at: Timestamp,
}

/// What planning a page comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// Written (or written before: a repeated page changes nothing). The keys are those of rows that this call made,
    /// leased when the plan claims; rows that were there already are not among them.
    Written(Vec<DeliveryKey>),
    /// The cursor stands elsewhere: read it again.
    Moved(Cursor),
}
