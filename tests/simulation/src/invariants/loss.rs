//! Promise 1: what was accepted is never silently lost.

use std::collections::{BTreeMap, BTreeSet};

use tidings_domain::{
    dead_letter::{DeadLetter, DeadLetterSource, reason},
    delivery::{DeliveryKey, DeliveryState},
    id::{MessageId, SubscriptionId},
    item::Item,
    ports::Inserted,
    subscription::SubscriptionState,
    wire::{Envelope, header},
};
use tidings_memory::Event;

use super::{key_of, kind_of, wants};
use crate::ledger::{Account, Expected, Post};

/// Every message that was accepted has exactly one item that says what it says, or a dead letter with its body. One
/// whose key was another message's is a dead letter `conflict`.
pub(super) fn accepted_messages_have_one_item(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    for post in &account.posts {
        let items = account.items_saying(&post.said.text);
        if items.len() > 1 {
            wrong.push(format!("{} items say {:?}", items.len(), short(&post.said.text)));
        }
        match items.first() {
            Some(item) if !says(item, post) => {
                let text = short(&post.said.text);
                wrong.push(format!(
                    "the item {} says otherwise than what was posted as {text:?}",
                    item.message.id
                ));
            }
            Some(_) => {}
            None if post.accepted.is_empty() => {}
            None => {
                // A conflict may also have failed for now, or come back too often, before it was found out.
                let taken = post
                    .id_of_key()
                    .filter(|id| account.rows.items.iter().any(|item| item.message.id.0 == *id));
                let reasons = [reason::CONFLICT, reason::ATTEMPTS_EXHAUSTED, reason::RETURNED_TOO_OFTEN];
                let dead = account.letters().any(|letter| {
                    letter.source == DeadLetterSource::Items
                        && letter.body == post.said.text
                        && (taken.is_none() || reasons.contains(&letter.reason.as_str()))
                });
                if !dead {
                    let text = short(&post.said.text);
                    wrong.push(format!("{text:?} was accepted and is neither an item nor a dead letter"));
                }
            }
        }
    }
    wrong
}

/// What other parties sent well is one item or a dead letter; what they sent badly is a dead letter with its reason.
pub(super) fn foreign_messages_are_stored_or_dead_letters(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    for foreign in &account.foreign {
        match (&foreign.expected, &foreign.envelope) {
            (Expected::Item { text }, _) => {
                let items = account.items_saying(text).len();
                let dead = account.has_letter_with(DeadLetterSource::Items, text.as_bytes());
                if items > 1 || (items == 0 && !dead) {
                    wrong.push(format!("{items} items say {text:?}, which another party sent"));
                }
            }
            (Expected::DeadLetter { reason }, Some(envelope)) => {
                let expected = [*reason, reason::ATTEMPTS_EXHAUSTED, reason::RETURNED_TOO_OFTEN];
                let found = |letter: &DeadLetter| {
                    letter.body == envelope.body && expected.contains(&letter.reason.as_str())
                };
                if !account.letters().any(found) {
                    wrong.push(format!("no dead letter {reason} for {envelope:?}"));
                }
            }
            (Expected::DeadLetter { .. }, None) => {}
        }
    }
    wrong
}

/// Every recipient who was confirmed from before an item was stored until the end, and whose filter matches, got it
/// mailed, with its text; or that is a dead letter.
pub(super) fn confirmed_recipients_are_mailed(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    let inserted: BTreeMap<MessageId, usize> = account
        .events_of(|event| match event {
            Event::Inserted { id, answer: Inserted::New } => Some(*id),
            _ => None,
        })
        .map(|(at, id)| (id, at))
        .collect();
    let mut states: BTreeMap<SubscriptionId, Vec<(usize, Option<SubscriptionState>)>> = BTreeMap::new();
    let written = account.events_of(|event| match event {
        Event::Subscription { id, state } => Some((*id, *state)),
        _ => None,
    });
    for (at, (id, state)) in written {
        states.entry(id).or_default().push((at, state));
    }
    let mailed: BTreeMap<DeliveryKey, &tidings_memory::TakenMail> =
        account.rows.mails.iter().filter_map(|mail| Some((key_of(&mail.message_id())?, mail))).collect();
    let confirmed = Some(SubscriptionState::Confirmed);
    for item in &account.rows.items {
        let id = item.message.id;
        let Some(stored_at) = inserted.get(&id) else {
            wrong.push(format!("the item {id} was never inserted"));
            continue;
        };
        for row in &account.rows.subscriptions {
            let history = states.get(&row.id).map_or(&[][..], Vec::as_slice);
            let at_first = history.iter().rev().find(|(at, _)| at < stored_at).and_then(|(_, state)| *state);
            let throughout = at_first == confirmed
                && history.iter().filter(|(at, _)| at > stored_at).all(|(_, state)| *state == confirmed);
            if !throughout || !account.person(row.id).is_some_and(|person| wants(person, item)) {
                continue;
            }
            let key = DeliveryKey { about: id.0, subscription: row.id, round: 0 };
            match mailed.get(&key) {
                Some(mail) if !carries(mail, item) => {
                    wrong.push(format!("the mail of {key} has another text"))
                }
                Some(_) => {}
                None if account.letters().any(|letter| letter.delivery == Some(key)) => {}
                None if account.has_dead_notification(id) => {}
                None => wrong
                    .push(format!("{key} was confirmed throughout and got no mail, nor is it a dead letter")),
            }
        }
    }
    wrong
}

/// After the drain nothing is open, no queue has anything left, every item was expanded or its notification is a dead
/// letter, and what was marked for redrive was taken up.
pub(super) fn nothing_is_open(account: &Account) -> Vec<String> {
    let mut wrong = Vec::new();
    let rows = &account.rows;
    for (name, left) in rows.queues.iter().filter(|(_, left)| **left > 0) {
        wrong.push(format!("the queue {name} has {left} messages left"));
    }
    if rows.unconfirmed > 0 {
        wrong.push(format!("{} changes are not confirmed", rows.unconfirmed));
    }
    for delivery in rows.deliveries.iter().filter(|delivery| delivery.state.is_open()) {
        wrong.push(format!("{} is still {}", delivery.key, delivery.state.as_str()));
    }
    for timeline in rows.timelines.iter().filter(|timeline| !timeline.expanded) {
        if !account.has_dead_notification(timeline.id) {
            wrong.push(format!("the notification of {} was never expanded", timeline.id));
        }
    }
    for letter in rows.letters.iter().filter(|letter| letter.marked_at.is_some()) {
        wrong.push(format!("the dead letter {} was marked and never taken up", letter.id));
    }
    wrong
}

/// A delivery that was given up has a dead letter, unless someone discarded it.
pub(super) fn failed_deliveries_have_a_dead_letter(account: &Account) -> Vec<String> {
    let letters: BTreeSet<DeliveryKey> = account.letters().filter_map(|letter| letter.delivery).collect();
    let failed = account.rows.deliveries.iter().filter(|delivery| delivery.state == DeliveryState::Failed);
    failed
        .filter(|delivery| !letters.contains(&delivery.key))
        .map(|delivery| format!("{} failed and has no dead letter", delivery.key))
        .collect()
}

/// A dead letter of a queue has the body and headers of what came, byte for byte; at most its id was added.
pub(super) fn dead_letters_keep_body_and_headers(account: &Account) -> Vec<String> {
    let published: Vec<&Envelope> = account
        .events_of(|event| match event {
            Event::Published { envelope, .. } => Some(envelope),
            _ => None,
        })
        .map(|(_, envelope)| envelope)
        .collect();
    let of_queue =
        |letter: &&DeadLetter| matches!(letter.source, DeadLetterSource::Items | DeadLetterSource::Mail);
    let kept = |letter: &DeadLetter, envelope: &Envelope| {
        envelope.body == letter.body
            && envelope
                .headers
                .iter()
                .all(|(name, value)| letter.headers.get(name) == Some(value) || name == header::ID)
            && letter.headers.keys().all(|name| envelope.headers.contains_key(name) || name == header::ID)
    };
    account
        .letters()
        .filter(of_queue)
        .filter(|letter| !published.iter().any(|envelope| kept(letter, envelope)))
        .map(|letter| format!("the dead letter {} is not what came: {:?}", letter.id, letter.headers))
        .collect()
}

fn says(item: &Item, post: &Post) -> bool {
    let (message, said) = (&item.message, &post.said);
    message.topic.as_str() == said.topic
        && message.subject.as_ref().map(|subject| subject.as_str()) == said.subject.as_deref()
        && kind_of(item) == said.kind
        && message.content_type == said.content_type
        && post.id_of_key().is_none_or(|id| id == message.id.0)
}

/// Whether a mail's text is the item's, with whatever stands below it.
fn carries(mail: &tidings_memory::TakenMail, item: &Item) -> bool {
    let parsed = mail_parser::MessageParser::default().parse(&mail.message[..]);
    parsed.is_some_and(|mail| {
        mail.body_text(0).is_some_and(|text| text.starts_with(item.message.text.as_str()))
    })
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}
