//! The world at rest: what is still open, and the rows when nothing is.

use std::collections::{BTreeMap, BTreeSet};

use tidings_domain::{
    Result,
    dead_letter::{DeadLetter, DeadLetterSelection},
    id::MessageId,
    page::{MAX_LIMIT, Page, PageRequest},
    ports::{ItemQuery, Queue, SubscriptionQuery},
};
use tidings_memory::Memory;

use crate::ledger::Rows;

/// What is still open, in words.
pub(crate) async fn open(memory: &Memory) -> Option<String> {
    for queue in Queue::ALL {
        let depth = memory.depth(queue);
        if depth > 0 {
            return Some(format!("{depth} messages in the queue {}", queue.as_str()));
        }
    }
    if memory.unconfirmed() > 0 {
        return Some(format!("{} changes not confirmed", memory.unconfirmed()));
    }
    match memory.deliveries().counts().await {
        Ok(counts) if counts.open() > 0 => return Some(format!("{} open deliveries", counts.open())),
        Ok(_) => {}
        Err(error) => return Some(error.chain()),
    }
    let marked = letters(memory).await.iter().filter(|letter| letter.marked_at.is_some()).count();
    (marked > 0).then(|| format!("{marked} marked dead letters"))
}

/// All rows; the deliveries are those about items and subscriptions that are there, and about `more`.
pub(crate) async fn rows(memory: &Memory, more: &[MessageId]) -> Rows {
    let items =
        all(async |page| memory.items().list(&ItemQuery { page, ..ItemQuery::default() }).await).await;
    let subscriptions = all(async |page| {
        memory.subscriptions().list(&SubscriptionQuery { page, ..SubscriptionQuery::default() }).await
    })
    .await;
    let ids: Vec<MessageId> = items.iter().map(|item| item.message.id).collect();
    let timelines = memory.deliveries().timelines(&ids).await.unwrap_or_default();
    let about = ids.iter().chain(more).map(|id| id.0).chain(subscriptions.iter().map(|row| row.id.0));
    let mut deliveries = Vec::new();
    for about in about.collect::<BTreeSet<_>>() {
        deliveries.extend(all(async |page| memory.deliveries().list(about, &page).await).await);
    }
    let queues: BTreeMap<_, _> =
        Queue::ALL.into_iter().map(|queue| (queue.as_str(), memory.depth(queue))).collect();
    Rows {
        items,
        timelines,
        deliveries,
        letters: letters(memory).await,
        subscriptions,
        mails: memory.mails(),
        queues,
        unconfirmed: memory.unconfirmed(),
    }
}

async fn letters(memory: &Memory) -> Vec<DeadLetter> {
    all(async |page| memory.dead_letters().list(&DeadLetterSelection::default(), &page).await).await
}

/// All pages of a list; nothing of a list that fails.
async fn all<T>(list: impl AsyncFn(PageRequest) -> Result<Page<T>>) -> Vec<T> {
    let mut entries = Vec::new();
    let mut cursor = None;
    loop {
        let Ok(page) = list(PageRequest { limit: MAX_LIMIT, cursor: cursor.take() }).await else {
            return entries;
        };
        entries.extend(page.data);
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => return entries,
        }
    }
}
