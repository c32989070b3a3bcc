//! Subscriptions: who is mailed of which topic, and the rules by which one changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    address::EmailAddress,
    delivery::{DeliveryKey, DeliveryKind, NewDelivery},
    filter::Filter,
    id::SubscriptionId,
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};

/// How long an address gets at most one confirmation mail per topic.
pub const CONFIRMATION_WINDOW: Duration = Duration::from_secs(10 * 60);

/// How long a confirm link works.
pub const CONFIRMATION_LIFETIME: Duration = Duration::from_secs(48 * 60 * 60);

/// Where a subscription stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SubscriptionState {
    /// Asked for and not confirmed: gets the confirmation mail and nothing else.
    Pending,
    /// Gets mails.
    Confirmed,
    /// Wants none.
    Unsubscribed,
}

impl SubscriptionState {
    /// The word that records and HTTP carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Confirmed => "confirmed",
            Self::Unsubscribed => "unsubscribed",
        }
    }

    /// Reads [`SubscriptionState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Confirmed, Self::Unsubscribed].into_iter().find(|state| state.as_str() == text)
    }
}

/// One row and one id per (topic, address).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// Of which topic.
    pub topic: TopicName,
    /// To whom: kept here and nowhere else.
    pub email: EmailAddress,
    /// Which messages.
    pub filter: Filter,
    /// Where it stands.
    pub state: SubscriptionState,
    /// Raised by a request that sends a confirmation and by an unsubscribe; a confirm token of an earlier generation is
    /// dead.
    pub generation: u32,
    /// When it was first asked for.
    pub created_at: Timestamp,
    /// When the last confirmation mail was asked for.
    pub requested_at: Timestamp,
    /// When it was confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed_at: Option<Timestamp>,
    /// Who said that consent was held already, when it was not confirmed by its own link.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confirmed_by: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsubscribed_at: Option<Timestamp>,
}

/// A wish to be mailed.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionRequest {
    /// The id to use when (topic, address) has no row yet.
    pub new_id: SubscriptionId,
    /// Of which topic.
    pub topic: TopicName,
    /// To whom.
    pub email: EmailAddress,
    /// Which messages.
    pub filter: Filter,
    /// The owner of an admin key who says that consent is held already: confirmed at once, no mail.
    pub confirmed_by: Option<String>,
    /// Whether a key with scope `admin` asks: only then a confirmed one's filter is replaced.
    pub by_admin: bool,
    /// When it is asked.
    pub at: Timestamp,
}

/// What a request comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Requested {
    /// The row as it is after the request.
    pub subscription: Subscription,
    /// Whether the row differs from the one before.
    pub changed: bool,
    /// Whether a confirmation delivery, keyed by (subscription id, its generation), is due.
    pub mail: bool,
}

/// Decides a request against the row that there is. Pending: the filter is replaced, and the mail sent again once per
/// [`CONFIRMATION_WINDOW`]. Confirmed: nothing changes except by an admin. Unsubscribed: pending again.
pub fn decide_request(existing: Option<&Subscription>, request: &SubscriptionRequest) -> Requested {
    let at = request.at;
    let Some(existing) = existing else {
        let confirmed = request.confirmed_by.is_some();
        let subscription = Subscription {
            id: request.new_id,
            topic: request.topic.clone(),
            email: request.email.clone(),
            filter: request.filter.clone(),
            state: if confirmed { SubscriptionState::Confirmed } else { SubscriptionState::Pending },
            generation: 1,
            created_at: at,
            requested_at: at,
            confirmed_at: confirmed.then_some(at),
            confirmed_by: request.confirmed_by.clone(),
            unsubscribed_at: None,
        };
        return Requested { subscription, changed: true, mail: !confirmed };
    };
    let mut subscription = existing.clone();
    let mut mail = false;
    if request.confirmed_by.is_some() && existing.state != SubscriptionState::Confirmed {
        subscription.state = SubscriptionState::Confirmed;
        subscription.filter = request.filter.clone();
        subscription.generation += 1;
        subscription.confirmed_at = Some(at);
        subscription.confirmed_by = request.confirmed_by.clone();
        subscription.unsubscribed_at = None;
    } else if existing.state == SubscriptionState::Confirmed {
        if request.by_admin {
            subscription.filter = request.filter.clone();
        }
    } else {
        subscription.state = SubscriptionState::Pending;
        subscription.filter = request.filter.clone();
        // Only the recipient can unsubscribe, so that a wish after it is mailed at once; the window begins anew with it.
        mail = existing.state == SubscriptionState::Unsubscribed
            || at.since(existing.requested_at) >= CONFIRMATION_WINDOW;
        if mail {
            subscription.generation += 1;
            subscription.requested_at = at;
        }
    }
    Requested { changed: subscription != *existing, subscription, mail }
}

/// What a link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Act {
    /// Of the confirmation mail.
    Confirm,
    /// Of every mail; ignores the generation.
    Unsubscribe,
}

/// What an act comes to.
#[derive(Clone, Debug, PartialEq)]
pub enum Acted {
    /// The row changed.
    Done(Subscription),
    /// The row was so already.
    AlreadyDone(Subscription),
    /// A confirm link from before a later request or an unsubscribe.
    Stale,
    /// No such subscription.
    NotFound,
}

/// Decides an act against the row; `Done` carries the row to write.
pub fn decide_act(existing: Option<&Subscription>, act: Act, generation: u32, at: Timestamp) -> Acted {
    let Some(existing) = existing else { return Acted::NotFound };
    let mut subscription = existing.clone();
    match (act, existing.state) {
        (Act::Unsubscribe, SubscriptionState::Unsubscribed) => Acted::AlreadyDone(subscription),
        (Act::Unsubscribe, _) => {
            subscription.state = SubscriptionState::Unsubscribed;
            subscription.generation += 1;
            subscription.unsubscribed_at = Some(at);
            Acted::Done(subscription)
        }
        (Act::Confirm, _) if generation != existing.generation => Acted::Stale,
        (Act::Confirm, SubscriptionState::Unsubscribed) => Acted::Stale,
        (Act::Confirm, SubscriptionState::Confirmed) => Acted::AlreadyDone(subscription),
        (Act::Confirm, SubscriptionState::Pending) => {
            subscription.state = SubscriptionState::Confirmed;
            subscription.confirmed_at = Some(at);
            subscription.confirmed_by = None;
            subscription.unsubscribed_at = None;
            Acted::Done(subscription)
        }
    }
}

/// How many subscriptions a topic has in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubscriptionCounts {
    /// Asked for.
    pub pending: u64,
    /// Mailed.
    pub confirmed: u64,
    /// Ended.
    pub unsubscribed: u64,
}

/// The delivery that a request which mails writes: about the subscription itself, its generation as the round, due at
/// once.
pub fn confirmation(subscription: &Subscription, at: Timestamp, trace: &TraceContext) -> NewDelivery {
    NewDelivery {
        key: DeliveryKey {
            about: subscription.id.0,
            subscription: subscription.id,
            round: subscription.generation,
        },
        kind: DeliveryKind::Confirmation,
        topic: subscription.topic.clone(),
        due_at: at,
        created_at: at,
        trace: trace.clone(),
    }
}

/// Whether a delivery to this subscription may still be sent: the last look before DATA.
pub fn is_wanted(subscription: Option<&Subscription>, kind: DeliveryKind, round: u32) -> bool {
    subscription.is_some_and(|subscription| match kind {
        DeliveryKind::Item => subscription.state == SubscriptionState::Confirmed,
        DeliveryKind::Confirmation => {
            subscription.state == SubscriptionState::Pending && subscription.generation == round
        }
    })
}

#[cfg(test)]
mod tests;
