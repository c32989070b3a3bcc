//! Promises 2, 4 and 5 as far as the bus and the table go.

use std::collections::{BTreeMap, BTreeSet};

use tidings_domain::{
    dead_letter::{DeadLetterSource, reason},
    ports::{BusTopic, Inserted},
};
use tidings_memory::Event;
use uuid::Uuid;

use super::{counted, id_of};
use crate::{
    faults::Kind,
    ledger::{Account, Post},
    plan::Weather,
};

/// Between a request that was accepted and its answer its message reached our queue. A repeat is published again: the
/// same never answers by itself.
pub(super) fn accepted_only_when_confirmed(account: &Account) -> Vec<String> {
    let mut published: BTreeMap<&[u8], Vec<(usize, Option<Uuid>)>> = BTreeMap::new();
    let messages = account.events_of(|event| match event {
        Event::Published { topic: BusTopic::Messages(_), envelope, .. } => Some(envelope),
        _ => None,
    });
    for (at, envelope) in messages {
        published.entry(&envelope.body).or_default().push((at, id_of(envelope)));
    }
    let mut wrong = Vec::new();
    for post in &account.posts {
        for accepted in &post.accepted {
            let id = accepted.id.or_else(|| post.id_of_key());
            let confirmed = published.get(post.said.text.as_bytes()).is_some_and(|times| {
                times.iter().any(|(at, published)| {
                    (accepted.asked_at..accepted.answered_at).contains(at)
                        && (id.is_none() || *published == id)
                })
            });
            if !confirmed {
                wrong.push(format!("{id:?} was accepted and had not reached our queue"));
            }
        }
    }
    wrong
}

/// All answers under one key name the id that the key makes, it is one item at most, and a key refuses only where it
/// said something else before.
pub(super) fn one_key_is_one_item(account: &Account) -> Vec<String> {
    let mut by_key: BTreeMap<&str, Vec<&Post>> = BTreeMap::new();
    for post in &account.posts {
        if let Some(key) = &post.key {
            by_key.entry(key).or_default().push(post);
        }
    }
    let mut wrong = Vec::new();
    for (key, posts) in by_key {
        let expected = posts.first().and_then(|post| post.id_of_key());
        let ids: BTreeSet<Uuid> = posts
            .iter()
            .flat_map(|post| {
                post.accepted.iter().filter_map(|accepted| accepted.id).chain(post.unknown_ids.clone())
            })
            .collect();
        if ids.iter().any(|id| Some(*id) != expected) {
            wrong.push(format!("the key {key} makes {expected:?}, and answers name {ids:?}"));
        }
        let items: usize = posts.iter().map(|post| account.items_saying(&post.said.text).len()).sum();
        if items > 1 {
            wrong.push(format!("the key {key} is {items} items"));
        }
        if posts.len() == 1 && posts.iter().any(|post| post.refused) {
            wrong.push(format!("the key {key} was refused and had never said anything else"));
        }
    }
    wrong
}

/// An item is inserted once.
pub(super) fn items_are_stored_once(account: &Account) -> Vec<String> {
    let inserted = account.events_of(|event| match event {
        Event::Inserted { id, answer: Inserted::New } => Some(*id),
        _ => None,
    });
    let counts = counted(inserted.map(|(_, id)| id));
    counts
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|(id, count)| format!("{id} was stored {count} times"))
        .collect()
}

/// Where the stream's position stands, everything before it was published as a notification or is a dead letter.
pub(super) fn position_never_ahead_of_publishes(account: &Account) -> Vec<String> {
    let mut published = BTreeSet::new();
    let mut wrong = Vec::new();
    for recorded in &account.events {
        match &recorded.event {
            Event::Published { topic: BusTopic::Notifications, envelope, .. } => {
                published.extend(id_of(envelope));
            }
            Event::DeadLettered { source: DeadLetterSource::Changes, message_id, .. } => {
                published.extend(*message_id);
            }
            Event::Confirmed { ids } => {
                for id in ids.iter().filter(|id| !published.contains(&id.0)) {
                    wrong.push(format!("the position moved past {id} before it was published"));
                }
            }
            _ => {}
        }
    }
    wrong
}

/// Where nothing but outages could happen to calls, nothing was given up for failed attempts.
pub(super) fn outages_use_up_no_attempt(account: &Account) -> Vec<String> {
    let failing = [Kind::Reject, Kind::Unknown, Kind::Hold];
    let calls_fail = failing.iter().any(|kind| account.plan.rates.contains_key(kind));
    let letters = account.events_of(|event| match event {
        Event::DeadLettered { source, reason, .. } => Some((*source, reason.as_str())),
        _ => None,
    });
    let mut wrong = Vec::new();
    for (_, (source, why)) in letters {
        let given_up =
            why == reason::ATTEMPTS_EXHAUSTED && source != DeadLetterSource::Deliveries && !calls_fail;
        let inherent = matches!(
            why,
            reason::UNDECODABLE | reason::NO_ID | reason::CONFLICT | reason::ITEM_MISSING | reason::REJECTED
        );
        // A store that is away for longer than a lease makes an unknown of a mail under way (promise 6).
        let held = why == reason::UNKNOWN_HELD && account.plan.weather == Weather::Outages;
        let returned = why == reason::RETURNED_TOO_OFTEN && account.plan.max_returns >= 1_000;
        let mild = account.plan.weather != Weather::Storm && !inherent && !held;
        if given_up || mild || why == reason::PANIC || returned {
            wrong.push(format!(
                "a dead letter {why} of {}, and nothing can have failed but servers that were away",
                source.as_str()
            ));
        }
    }
    wrong
}
