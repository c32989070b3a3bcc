//! The promises of DESIGN as plain functions over the account of a run. Each answers what is against its promise.

mod bus;
mod loss;
mod mail;
mod retention;

use std::collections::BTreeMap;

use tidings_domain::{
    dead_letter::{DeadLetter, DeadLetterSource},
    delivery::DeliveryKey,
    id::{MessageId, SubscriptionId},
    item::Item,
    topic::TopicName,
    wire::{Envelope, header},
};
use tidings_memory::Event;
use uuid::Uuid;

use crate::{
    ledger::{Account, Post},
    plan::Person,
};

/// Something that is against a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which promise, by the number in DESIGN; 0 where it is no single one.
    pub promise: u8,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "promise {}: {}", self.promise, self.what)
    }
}

/// One promise, or a part of one.
type Check = fn(&Account) -> Vec<String>;

/// All of them, by the number of their promise.
const CHECKS: [(u8, Check); 18] = [
    (0, nothing_went_against_the_rules),
    (0, retention::what_is_done_goes_and_nothing_else),
    (1, loss::accepted_messages_have_one_item),
    (1, loss::foreign_messages_are_stored_or_dead_letters),
    (1, loss::confirmed_recipients_are_mailed),
    (1, loss::nothing_is_open),
    (1, loss::failed_deliveries_have_a_dead_letter),
    (1, loss::dead_letters_keep_body_and_headers),
    (2, bus::accepted_only_when_confirmed),
    (2, bus::one_key_is_one_item),
    (4, bus::items_are_stored_once),
    (4, bus::position_never_ahead_of_publishes),
    (5, mail::attempts_have_their_causes),
    (5, bus::outages_use_up_no_attempt),
    (6, mail::sending_is_recorded_and_wanted),
    (6, mail::twice_only_when_unknown),
    (6, mail::held_unknowns_are_not_mailed_again),
    (8, mail::stops_count_nothing),
];

/// All that is against a promise.
pub(crate) fn violations(account: &Account) -> Vec<Violation> {
    CHECKS
        .iter()
        .flat_map(|(promise, check)| {
            check(account).into_iter().map(|what| Violation { promise: *promise, what })
        })
        .collect()
}

/// What clients and the world saw while it ran.
fn nothing_went_against_the_rules(account: &Account) -> Vec<String> {
    account.faults_seen.clone()
}

impl Post {
    /// The id that its key makes.
    fn id_of_key(&self) -> Option<Uuid> {
        let topic = TopicName::parse(self.said.topic).ok()?;
        let key = self.key.as_deref()?;
        Some(MessageId::idempotent("tidings", "anonymous", &topic, key).0)
    }
}

impl Account {
    /// Every dead letter that is there, or was when someone asked to discard it.
    fn letters(&self) -> impl Iterator<Item = &DeadLetter> {
        self.rows.letters.iter().chain(self.discarded.values().flatten())
    }

    /// Whether there is, or was, a letter of `source` with this body.
    fn has_letter_with(&self, source: DeadLetterSource, body: &[u8]) -> bool {
        self.letters().any(|letter| letter.source == source && letter.body == body)
    }

    /// Whether the notification of `item` cannot go on, and that is to be seen.
    fn has_dead_notification(&self, item: MessageId) -> bool {
        let of_it = |source| matches!(source, DeadLetterSource::Changes | DeadLetterSource::Mail);
        self.letters().any(|letter| of_it(letter.source) && letter.message_id == Some(item.0))
    }

    fn items_saying(&self, text: &str) -> Vec<&Item> {
        self.rows.items.iter().filter(|item| item.message.text.as_str() == text).collect()
    }

    /// Every event of a kind, with its place.
    fn events_of<'a, T>(
        &'a self,
        pick: impl Fn(&'a Event) -> Option<T> + 'a,
    ) -> impl Iterator<Item = (usize, T)> + 'a {
        self.events.iter().enumerate().filter_map(move |(at, recorded)| Some((at, pick(&recorded.event)?)))
    }

    /// The person whom a subscription is of.
    fn person(&self, id: SubscriptionId) -> Option<&Person> {
        let row = self.rows.subscriptions.iter().find(|row| row.id == id)?;
        self.plan
            .people
            .iter()
            .find(|person| person.email == row.email.as_str() && person.topic == row.topic.as_str())
    }
}

/// The id that an envelope's headers name.
fn id_of(envelope: &Envelope) -> Option<Uuid> {
    envelope.headers.get(header::ID).and_then(|id| Uuid::parse_str(id).ok())
}

/// The delivery that a `Message-ID` is of.
fn key_of(message_id: &str) -> Option<DeliveryKey> {
    let mut parts = message_id.split_once('@')?.0.split('.');
    let about = Uuid::parse_str(parts.next()?).ok()?;
    let subscription = SubscriptionId::parse(parts.next()?)?;
    Some(DeliveryKey { about, subscription, round: parts.next()?.parse().ok()? })
}

/// The kind that an item's attribute names.
fn kind_of(item: &Item) -> Option<&str> {
    item.message.attributes.iter().find(|(name, _)| *name == "kind").and_then(|(_, value)| value.as_str())
}

/// Whether a person wants an item, by the plan and not by the filter's own code.
fn wants(person: &Person, item: &Item) -> bool {
    person.topic == item.message.topic.as_str()
        && person.wants.as_ref().is_none_or(|wants| kind_of(item).is_some_and(|kind| wants.contains(&kind)))
}

/// How often each of `values` occurs.
fn counted<T: Ord>(values: impl Iterator<Item = T>) -> BTreeMap<T, u64> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}
