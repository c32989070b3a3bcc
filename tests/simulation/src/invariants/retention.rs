//! Retention covers all records, and takes nothing that is not done.

use std::collections::BTreeSet;

use tidings_domain::{dead_letter::DeadLetterSource, status::Timeline};
use uuid::Uuid;

use crate::ledger::Account;

/// Weeks later every item that was expanded is gone, with its notifications, deliveries and dead letters, and so is one
/// whose change is a dead letter itself; one that was never expanded is still there. Nothing was mailed for it.
pub(crate) fn what_is_done_goes_and_nothing_else(account: &Account) -> Vec<String> {
    let Some(kept) = &account.kept else { return Vec::new() };
    let mut wrong = Vec::new();
    let ended_as_changes: BTreeSet<Uuid> = account
        .rows
        .letters
        .iter()
        .filter(|letter| letter.source == DeadLetterSource::Changes)
        .filter_map(|letter| letter.message_id)
        .collect();
    let closed = |line: &Timeline| {
        line.expanded || (line.published_at.is_none() && ended_as_changes.contains(&line.id.0))
    };
    let open: BTreeSet<Uuid> =
        account.rows.timelines.iter().filter(|line| !closed(line)).map(|line| line.id.0).collect();
    let items: BTreeSet<Uuid> = kept.items.iter().map(|item| item.message.id.0).collect();
    if items != open {
        wrong.push(format!("weeks later the items {items:?} are kept, and {open:?} were never expanded"));
    }
    let subscriptions: BTreeSet<Uuid> = kept.subscriptions.iter().map(|row| row.id.0).collect();
    for delivery in &kept.deliveries {
        if !open.contains(&delivery.key.about) && !subscriptions.contains(&delivery.key.about) {
            wrong.push(format!("weeks later {} is still there", delivery.key));
        }
    }
    for letter in
        kept.letters.iter().filter(|letter| letter.delivery.is_none_or(|key| key.about != key.subscription.0))
    {
        if !letter.message_id.is_some_and(|id| open.contains(&id)) {
            wrong.push(format!("weeks later the dead letter {} is still there", letter.id));
        }
    }
    if kept.mails.len() != account.rows.mails.len() {
        wrong.push("mails were sent while weeks went by".to_owned());
    }
    wrong
}
