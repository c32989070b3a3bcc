//! Promises 5, 6 and 8 as far as mails go.

use std::collections::{BTreeMap, BTreeSet};

use tidings_domain::{
    delivery::{DeliveryKey, DeliveryState},
    id::SubscriptionId,
    subscription::SubscriptionState,
};
use tidings_memory::Event;

use super::{key_of, wants};
use crate::{ledger::Account, plan::Weather};

/// Which deliveries were found `sending` since they were last tried: an unknown is counted once for each.
#[derive(Default)]
struct Found(BTreeSet<DeliveryKey>);

impl Found {
    /// Whether finding it `sending` counts, and that it was found.
    fn is_counted(&mut self, key: DeliveryKey) -> bool {
        self.0.insert(key)
    }

    /// It was tried again, or settled.
    fn tried(&mut self, key: DeliveryKey) {
        self.0.remove(&key);
    }
}

/// Every attempt that was counted has a cause: the server took the mail, refused it, or its outcome is unknown. Being
/// away is none.
pub(super) fn attempts_have_their_causes(account: &Account) -> Vec<String> {
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    let mut causes = account.mail_failures.clone();
    let mut rows: BTreeMap<DeliveryKey, (u32, u32)> = BTreeMap::new();
    let mut found = Found::default();
    let add = |counts: &mut BTreeMap<String, u64>, key: DeliveryKey, count: u32| {
        if let Some(person) = account.person(key.subscription) {
            *counts.entry(person.email.clone()).or_default() += u64::from(count);
        }
    };
    for recorded in &account.events {
        match &recorded.event {
            Event::Claimed { key, unknown: true } if found.is_counted(*key) => {
                let row = rows.entry(*key).or_default();
                *row = (row.0 + 1, row.1 + 1);
                add(&mut counted, *key, 1);
                add(&mut causes, *key, 1);
            }
            Event::Sending { key } => found.tried(*key),
            Event::Settled { key, attempts, unknowns, .. } => {
                found.tried(*key);
                let (before, unknowns_before) = rows.insert(*key, (*attempts, *unknowns)).unwrap_or_default();
                add(&mut counted, *key, attempts.saturating_sub(before));
                add(&mut causes, *key, unknowns.saturating_sub(unknowns_before));
            }
            Event::Revived { key } => {
                rows.remove(key);
            }
            Event::Mailed { message_id, .. } => {
                if let Some(key) = key_of(message_id) {
                    add(&mut causes, key, 1);
                }
            }
            _ => {}
        }
    }
    let cause = |email: &String| causes.get(email).copied().unwrap_or_default();
    counted
        .iter()
        .filter(|(email, count)| **count > cause(email))
        .map(|(email, count)| {
            format!("{count} attempts are counted for {email}, and {} have a cause", cause(email))
        })
        .collect()
}

/// A mail is taken only after `sending` was recorded for it since the last one, when its recipient was confirmed (or, of
/// a confirmation, pending), and it goes to that recipient, of an item that they want.
pub(super) fn sending_is_recorded_and_wanted(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut states: BTreeMap<SubscriptionId, SubscriptionState> = BTreeMap::new();
    let mut recorded_for: BTreeMap<DeliveryKey, bool> = BTreeMap::new();
    for recorded in &account.events {
        match &recorded.event {
            Event::Subscription { id, state: Some(state) } => {
                states.insert(*id, *state);
            }
            Event::Subscription { id, state: None } => {
                states.remove(id);
            }
            Event::Sending { key } => {
                let confirmation = key.about == key.subscription.0;
                let wanted =
                    if confirmation { SubscriptionState::Pending } else { SubscriptionState::Confirmed };
                recorded_for.insert(*key, states.get(&key.subscription) == Some(&wanted));
            }
            Event::Mailed { to, message_id } => {
                let Some(key) = key_of(message_id) else {
                    wrong.push(format!("a mail with the foreign Message-ID {message_id}"));
                    continue;
                };
                match recorded_for.remove(&key) {
                    None => wrong.push(format!("{key} was mailed with no record of sending")),
                    Some(false) => wrong.push(format!("{key} was mailed to someone who was not confirmed")),
                    Some(true) => {}
                }
                let person = account.person(key.subscription);
                if person.is_none_or(|person| person.email != *to) {
                    wrong.push(format!("{key} was mailed to somebody else"));
                }
                let item = account.rows.items.iter().find(|item| item.message.id.0 == key.about);
                if let (Some(person), Some(item)) = (person, item)
                    && !wants(person, item)
                {
                    wrong.push(format!("{key} was mailed to someone whose filter does not match"));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// Between two mails of one delivery an unknown was counted for it.
pub(super) fn twice_only_when_unknown(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut unknowns: BTreeMap<DeliveryKey, u32> = BTreeMap::new();
    let mut found = Found::default();
    // Whether an unknown was counted since the last mail.
    let mut mailed: BTreeMap<DeliveryKey, bool> = BTreeMap::new();
    for recorded in &account.events {
        let counted = match &recorded.event {
            Event::Claimed { key, unknown: true } if found.is_counted(*key) => {
                *unknowns.entry(*key).or_default() += 1;
                Some(*key)
            }
            Event::Sending { key } => {
                found.tried(*key);
                None
            }
            Event::Settled { key, unknowns: now, .. } => {
                found.tried(*key);
                let before = unknowns.insert(*key, *now).unwrap_or_default();
                (*now > before).then_some(*key)
            }
            Event::Revived { key } => {
                unknowns.remove(key);
                None
            }
            Event::Mailed { message_id, .. } => {
                if let Some(key) = key_of(message_id)
                    && mailed.insert(key, false) == Some(false)
                {
                    wrong.push(format!("{key} was mailed twice and no unknown was counted between"));
                }
                None
            }
            _ => None,
        };
        if let Some(unknown) = counted.and_then(|key| mailed.get_mut(&key)) {
            *unknown = true;
        }
    }
    wrong
}

/// Where unknown outcomes are held, nothing is mailed twice unless a person redrove it.
pub(crate) fn held_unknowns_are_not_mailed_again(account: &Account) -> Vec<String> {
    let mut mailed = BTreeSet::new();
    let mut wrong = Vec::new();
    for recorded in account.events.iter().filter(|_| account.plan.holds_unknown) {
        match &recorded.event {
            Event::Revived { key } => {
                mailed.remove(key);
            }
            Event::Mailed { message_id, .. } => {
                if let Some(key) = key_of(message_id)
                    && !mailed.insert(key)
                {
                    wrong.push(format!("{key} was mailed twice, and unknown outcomes are held"));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// Where nothing happens but stops: one attempt a mail, none unknown, none twice, and no message was handed out twice.
pub(super) fn stops_count_nothing(account: &Account) -> Vec<String> {
    if account.plan.weather != Weather::Calm {
        return Vec::new();
    }
    let mut wrong = Vec::new();
    for delivery in &account.rows.deliveries {
        let attempts = u32::from(delivery.state == DeliveryState::Sent);
        if delivery.attempts != attempts || delivery.unknowns > 0 {
            wrong.push(format!(
                "{} is {} with {} attempts and {} unknowns",
                delivery.key,
                delivery.state.as_str(),
                delivery.attempts,
                delivery.unknowns
            ));
        }
    }
    for recorded in &account.events {
        if let Event::HandedOut { queue, message, returns } = &recorded.event
            && *returns > 0
        {
            wrong.push(format!("the message {message} of {} was handed out again", queue.as_str()));
        }
    }
    wrong
}
