//! The expander: writes a delivery for each recipient of a notification, page by page, and is done with it when every
//! row exists.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, TryStreamExt as _};
use tidings_domain::{
    Error, Result,
    dead_letter::reason,
    delivery::{
        ClaimedDelivery, Delivery, DeliveryKey, DeliveryKind, DeliveryState, LeaseToken, NewDelivery,
    },
    id::SubscriptionId,
    item::Item,
    notification::{Cursor, Notification, Plan, Planned},
    ports::{Clock, Deliveries, Entropy, Items, Received, Subscriptions},
    subscription::Subscription,
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
    wire::{Undecodable, change},
};
use tidings_runtime::{
    handler::{Handler, Reject, Verdict},
    telemetry::Telemetry,
};

use crate::{
    claimer::{claim, release},
    message::{Mails, PreparedItem},
    metrics::Metrics,
    outbox::{Outbox, Places, Work},
    settings::Settings,
    subjects::Subjects,
    verdict_of,
};

/// Pages of recipients that are read at once.
const READS: usize = 8;

/// How long planning waits for room in the outbox: no longer, so that a slow mail server holds up no notification.
const ROOM: Duration = Duration::from_millis(250);

/// How often a cursor may have moved under us before the notification is left to another try.
const MOVES: u32 = 16;

pub(crate) struct Expander {
    pub(crate) deliveries: Arc<dyn Deliveries>,
    pub(crate) items: Arc<dyn Items>,
    pub(crate) subscriptions: Arc<dyn Subscriptions>,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) mails: Arc<Mails>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) settings: Settings,
    pub(crate) owner: String,
    pub(crate) telemetry: Telemetry,
    pub(crate) metrics: Arc<Metrics>,
}

/// One notification under way.
struct Expansion {
    /// Where it stands in the batch, more than once where it came twice.
    entries: Vec<usize>,
    notification: Notification,
    item: Option<Item>,
    prepared: Option<Arc<PreparedItem>>,
    cursor: Cursor,
    moves: u32,
    verdict: Option<Verdict>,
    /// The process span's context, which the consume loop put into the envelope.
    trace: TraceContext,
}

/// A page of a topic's recipients, by what it comes after.
type Pages = BTreeMap<(TopicName, Option<SubscriptionId>), Arc<Vec<Subscription>>>;

#[async_trait]
impl Handler for Expander {
    async fn handle(&self, batch: &[Received]) -> Vec<Verdict> {
        let now = self.clock.now();
        let mut verdicts = vec![None; batch.len()];
        let mut expansions = self.decode(batch, &mut verdicts, now);
        if let Err(error) = self.expand(&mut expansions).await {
            for expansion in &mut expansions {
                expansion.verdict.get_or_insert_with(|| verdict_of(&error));
            }
        }
        for expansion in expansions {
            for entry in expansion.entries {
                verdicts[entry].clone_from(&expansion.verdict);
            }
        }
        // Every expansion has a verdict by now; one without is a fault of ours, tried again.
        let missing = || Verdict::Retry { detail: "the expansion was not finished".to_owned() };
        verdicts.into_iter().map(|verdict| verdict.unwrap_or_else(missing)).collect()
    }

    async fn probe(&self) -> Result<()> {
        self.deliveries.ping().await
    }
}

impl Expander {
    fn decode(&self, batch: &[Received], verdicts: &mut [Option<Verdict>], now: Timestamp) -> Vec<Expansion> {
        let mut expansions: Vec<Expansion> = Vec::with_capacity(batch.len());
        for (entry, received) in batch.iter().enumerate() {
            let decoded = match change::decode(&received.envelope, now) {
                Ok(decoded) => decoded,
                Err(Undecodable { reason, detail }) => {
                    let reject = Reject { reason, detail, message_id: None, topic: None };
                    verdicts[entry] = Some(Verdict::DeadLetter(reject));
                    continue;
                }
            };
            let notification = decoded.notification;
            self.metrics.taken(&notification, now);
            let same = |other: &Expansion| {
                let other = &other.notification;
                (other.item, other.round, &other.replay)
                    == (notification.item, notification.round, &notification.replay)
            };
            if let Some(twin) = expansions.iter_mut().find(|other| same(other)) {
                twin.entries.push(entry);
                continue;
            }
            expansions.push(Expansion {
                entries: vec![entry],
                notification,
                item: decoded.item,
                prepared: None,
                cursor: Cursor::Start,
                moves: 0,
                verdict: None,
                trace: decoded.trace,
            });
        }
        expansions
    }

    async fn expand(&self, expansions: &mut [Expansion]) -> Result<()> {
        if expansions.is_empty() {
            return Ok(());
        }
        let notifications: Vec<_> =
            expansions.iter().map(|expansion| expansion.notification.clone()).collect();
        let cursors = self.deliveries.expansions(&notifications).await?;
        for (expansion, cursor) in expansions.iter_mut().zip(cursors) {
            expansion.stands_at(cursor);
        }
        self.read_items(expansions).await?;
        loop {
            let mut open: Vec<_> =
                expansions.iter_mut().filter(|expansion| expansion.verdict.is_none()).collect();
            if open.is_empty() {
                return Ok(());
            }
            let pages = self.read_pages(&open).await?;
            // One transaction holds about a page of rows, whatever the batch.
            let mut rest = open.as_mut_slice();
            while !rest.is_empty() {
                let count = self.fitting(rest, &pages);
                let (group, after) = rest.split_at_mut(count);
                self.plan(group, &pages).await?;
                rest = after;
            }
        }
    }

    /// Reads the items that were left out of their records.
    async fn read_items(&self, expansions: &mut [Expansion]) -> Result<()> {
        let lacks = |expansion: &&mut Expansion| expansion.verdict.is_none() && expansion.item.is_none();
        let mut lacking: Vec<_> = expansions.iter_mut().filter(lacks).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = lacking.iter().map(|expansion| expansion.notification.item).collect();
        let items = self.items.get(&ids).await?;
        for (expansion, item) in lacking.iter_mut().zip(items) {
            expansion.item = item;
            if expansion.item.is_none() {
                expansion.verdict = Some(Verdict::DeadLetter(Reject {
                    reason: reason::ITEM_MISSING,
                    detail: "the record came without its message, and there is no such item".to_owned(),
                    message_id: Some(expansion.notification.item.uuid()),
                    topic: Some(expansion.notification.topic.clone()),
                }));
            }
        }
        Ok(())
    }

    /// Reads the next page of each topic and cursor once.
    async fn read_pages(&self, open: &[&mut Expansion]) -> Result<Pages> {
        let mut wanted: Vec<_> = open.iter().map(|expansion| expansion.next_page()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        let limit = self.settings.page_size;
        let read = wanted.into_iter().map(|(topic, after)| async move {
            let page = self.subscriptions.confirmed(&topic, after, limit).await?;
            Ok::<_, Error>(((topic, after), Arc::new(page)))
        });
        futures::stream::iter(read).buffered(READS).try_collect().await
    }

    /// How many of `open` are planned in one call: at least one, together about a page of rows.
    fn fitting(&self, open: &[&mut Expansion], pages: &Pages) -> usize {
        let mut rows = 0;
        let fits = open.iter().take_while(|expansion| {
            rows += 1 + pages.get(&expansion.next_page()).map_or(0, |page| page.len());
            rows <= self.settings.page_size as usize
        });
        fits.count().max(1)
    }

    /// Plans one page of each, claiming it where there is room, and hands what was claimed to the sender.
    async fn plan(&self, group: &mut [&mut Expansion], pages: &Pages) -> Result<()> {
        let page =
            |expansion: &&mut Expansion| pages.get(&expansion.next_page()).map_or(0, |page| page.len());
        let mut room = self.outbox.room(group.iter().map(page).sum(), ROOM).await;
        let claim = claim(&self.owner, &*self.clock, &*self.entropy, self.settings.lease());
        let mut plans = Vec::with_capacity(group.len());
        let mut reserved = Vec::with_capacity(group.len());
        for expansion in group.iter_mut() {
            let page = pages.get(&expansion.next_page()).cloned().unwrap_or_default();
            let full = page.len() >= self.settings.page_size as usize;
            let to = page.last().filter(|_| full).map_or(Cursor::Finished, |last| Cursor::After(last.id));
            let rows = expansion.rows(&page, claim.at);
            let places = self.places(expansion, rows.len(), &mut room).await;
            plans.push(Plan {
                notification: expansion.notification.clone(),
                from: expansion.cursor,
                page: rows,
                to,
                claim: places.is_some().then(|| claim.clone()),
                at: claim.at,
            });
            reserved.push((places, page, to));
        }
        drop(room);
        let rows: Vec<_> = plans.iter().map(|plan| plan.page.clone()).collect();
        let mut span = None;
        if self.telemetry.is_recording() {
            let causes: Vec<_> = group.iter().map(|expansion| expansion.trace.clone()).collect();
            span = Some(self.telemetry.statement_span("INSERT", "deliveries", &causes));
        }
        let planned = self.deliveries.plan(plans).await.inspect_err(|error| {
            if let Some(span) = &mut span {
                span.fail(error.kind.as_str(), error.context.as_str());
            }
        })?;
        drop(span);
        let mut works = Vec::new();
        for (((expansion, planned), rows), (places, page, to)) in
            group.iter_mut().zip(planned).zip(rows).zip(reserved)
        {
            match planned {
                Planned::Written(keys) => {
                    self.metrics.planned(keys.len());
                    match places {
                        Some(places) => {
                            works.extend(expansion.works(&keys, rows, &page, places, claim.token))
                        }
                        None if !keys.is_empty() => self.outbox.planned_unclaimed(),
                        None => {}
                    }
                    expansion.stands_at(to);
                    if to == Cursor::Finished {
                        let now = self.clock.now();
                        self.metrics.all_planned(&expansion.notification, expansion.item.as_ref(), now);
                    }
                }
                Planned::Moved(cursor) => expansion.moved(cursor),
            }
        }
        if let Err(works) = self.outbox.hand_over(works) {
            let claimed: Vec<_> = works.into_iter().map(|work| work.claimed).collect();
            if !claimed.is_empty() {
                release(&*self.deliveries, &*self.clock, &claimed).await;
            }
        }
        Ok(())
    }

    /// Room for `count` deliveries of one item at once, with the item's part of their mails ready.
    async fn places(
        &self,
        expansion: &mut Expansion,
        count: usize,
        room: &mut Option<Places>,
    ) -> Option<Places> {
        let waited_for = room.as_mut().filter(|_| count > 0).and_then(|room| room.take(count));
        let places = waited_for.or_else(|| self.outbox.reserve(count))?;
        if expansion.prepared.is_none() {
            let item = expansion.item.as_ref()?;
            // Without the subject nothing is claimed; who claims later asks again.
            let subject = self.subjects.of_topic(item).await.ok()?;
            let subject = subject.as_ref().map(|subject| subject.as_str());
            expansion.prepared = Some(self.mails.prepare(item, subject));
        }
        Some(places)
    }
}

impl Expansion {
    fn stands_at(&mut self, cursor: Cursor) {
        self.cursor = cursor;
        if cursor == Cursor::Finished {
            self.verdict = Some(Verdict::Done);
        }
    }

    fn moved(&mut self, cursor: Cursor) {
        self.moves += 1;
        if self.moves > MOVES {
            self.verdict =
                Some(Verdict::Retry { detail: "another mailer expands it at the same time".to_owned() });
        } else {
            self.stands_at(cursor);
        }
    }

    fn next_page(&self) -> (TopicName, Option<SubscriptionId>) {
        let after = match self.cursor {
            Cursor::After(id) => Some(id),
            Cursor::Start | Cursor::Finished => None,
        };
        (self.notification.topic.clone(), after)
    }

    /// A delivery for each of `page` whose filter matches.
    fn rows(&self, page: &[Subscription], at: Timestamp) -> Vec<NewDelivery> {
        let Some(item) = &self.item else { return Vec::new() };
        let wanted = page.iter().filter(|subscription| subscription.filter.matches(&item.message.attributes));
        wanted.map(|subscription| self.row(subscription.id, at)).collect()
    }

    fn row(&self, subscription: SubscriptionId, at: Timestamp) -> NewDelivery {
        let about = self.notification.item.uuid();
        NewDelivery {
            key: DeliveryKey { about, subscription, round: self.notification.round },
            kind: DeliveryKind::Item,
            topic: self.notification.topic.clone(),
            due_at: at,
            created_at: at,
            trace: self.trace.clone(),
        }
    }

    /// What was claimed, ready to be sent.
    fn works(
        &self,
        keys: &[DeliveryKey],
        rows: Vec<NewDelivery>,
        page: &[Subscription],
        mut places: Places,
        token: LeaseToken,
    ) -> Vec<Work> {
        let made: std::collections::BTreeSet<_> = keys.iter().collect();
        let mut works = Vec::with_capacity(keys.len());
        for row in rows.into_iter().filter(|row| made.contains(&row.key)) {
            // Rows are in the order of the page, which is that of the ids.
            let found = page.binary_search_by_key(&row.key.subscription, |subscription| subscription.id).ok();
            let Some(place) = places.take_one() else { break };
            works.push(Work {
                claimed: ClaimedDelivery { delivery: delivery(row), token, unknown: false },
                item: self.prepared.clone(),
                subscription: found.map(|at| page[at].clone()),
                place,
            });
        }
        works
    }
}

/// A planned row as it stands.
fn delivery(row: NewDelivery) -> Delivery {
    Delivery {
        key: row.key,
        kind: row.kind,
        topic: row.topic,
        state: DeliveryState::Pending,
        due_at: row.due_at,
        attempts: 0,
        unknowns: 0,
        answers: Vec::new(),
        created_at: row.created_at,
        sent_at: None,
        trace: row.trace,
    }
}
