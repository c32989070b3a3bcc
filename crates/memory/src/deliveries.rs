//! `Deliveries`.

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    dead_letter::DeadLetterSource,
    delivery::{
        Claim, ClaimedDelivery, Delivery, DeliveryKey, DeliveryState, LeaseToken, NewDelivery, Outcome,
        Sending, after,
    },
    id::MessageId,
    notification::{Cursor, Notification, Plan, Planned},
    page::{Page, PageRequest, decode_cursor, encode_cursor},
    ports::Deliveries,
    status::{DeliveryCounts, Timeline},
    subscription::is_wanted,
    time::Timestamp,
};
use uuid::Uuid;

use crate::{
    Event, Memory, Part,
    shared::{DeliveryRow, NotificationRow, State},
};

type Record<'a> = &'a dyn Fn(Event);

impl State {
    /// Writes a delivery that has no row yet; whether it made one.
    pub(crate) fn add_delivery(&mut self, new: NewDelivery, claim: Option<&Claim>) -> bool {
        let key = new.key;
        if self.deliveries.contains_key(&key) {
            return false;
        }
        let delivery = Delivery {
            key,
            kind: new.kind,
            topic: new.topic,
            state: DeliveryState::Pending,
            due_at: new.due_at,
            attempts: 0,
            unknowns: 0,
            answers: Vec::new(),
            created_at: new.created_at,
            sent_at: None,
            trace: new.trace,
        };
        let lease = claim.map(|claim| (claim.token, claim.until));
        self.deliveries.insert(key, DeliveryRow { delivery, lease, counted: false });
        self.open.insert(key);
        true
    }

    fn expansion(&self, notification: &Notification) -> Cursor {
        match self.notifications.get(&(notification.item, notification.round)) {
            Some(row) if notification.replay.is_none() || notification.replay == row.replay => row.cursor,
            _ => Cursor::Start,
        }
    }

    fn plan(&mut self, plan: Plan, record: Record<'_>) -> Planned {
        let stands = self.expansion(&plan.notification);
        if stands != plan.from {
            return if stands == plan.to { Planned::Written(Vec::new()) } else { Planned::Moved(stands) };
        }
        let Notification { item, round, replay, captured_at, published_at, .. } = plan.notification;
        let mut made = Vec::new();
        for new in plan.page {
            let key = new.key;
            if self.add_delivery(new, plan.claim.as_ref()) {
                made.push(key);
            }
        }
        let row = self.notifications.entry((item, round)).or_insert(NotificationRow {
            captured_at,
            published_at,
            replay: None,
            cursor: Cursor::Start,
            planned: 0,
        });
        row.replay = replay.or(row.replay.take());
        row.cursor = plan.to;
        row.planned += made.len() as u64;
        record(Event::Planned { item, round, made: made.clone(), to: plan.to });
        if plan.claim.is_some() {
            for key in &made {
                record(Event::Claimed { key: *key, unknown: false });
            }
        }
        Planned::Written(made)
    }

    /// When an open row can be claimed.
    fn claimable_at(row: &DeliveryRow) -> Timestamp {
        match (row.delivery.state, row.lease) {
            (DeliveryState::Pending, Some((_, until))) => until.max(row.delivery.due_at),
            (_, Some((_, until))) => until,
            (_, None) => row.delivery.due_at,
        }
    }

    fn claim(&mut self, max: u32, claim: &Claim, record: Record<'_>) -> Vec<ClaimedDelivery> {
        let row = |key: &DeliveryKey| &self.deliveries[key];
        let mut due: Vec<DeliveryKey> =
            self.open.iter().filter(|key| Self::claimable_at(row(key)) <= claim.at).copied().collect();
        due.sort_by_key(|key| (row(key).delivery.due_at, *key));
        due.truncate(max as usize);
        let mut take = |key: DeliveryKey| {
            let row = self.deliveries.get_mut(&key)?;
            let unknown = row.delivery.state == DeliveryState::Sending;
            if unknown && !row.counted {
                row.delivery.attempts += 1;
                row.delivery.unknowns += 1;
            }
            // It stays `sending`, so that nobody takes it for untried, and is counted once until it is tried again.
            row.counted = unknown;
            row.lease = Some((claim.token, claim.until));
            record(Event::Claimed { key, unknown });
            Some(ClaimedDelivery { delivery: row.delivery.clone(), token: claim.token, unknown })
        };
        due.into_iter().filter_map(&mut take).collect()
    }

    /// The row of `key`, when `token` holds it.
    fn held_delivery(&mut self, key: &DeliveryKey, token: LeaseToken) -> Option<&mut DeliveryRow> {
        self.deliveries.get_mut(key).filter(|row| {
            row.delivery.state.is_open() && row.lease.is_some_and(|(holder, _)| holder == token)
        })
    }

    fn send(
        &mut self,
        key: &DeliveryKey,
        token: LeaseToken,
        until: Timestamp,
        record: Record<'_>,
    ) -> Sending {
        let Some(row) = self.held_delivery(key, token) else { return Sending::LeaseLost };
        let kind = row.delivery.kind;
        if !is_wanted(self.subscriptions.get(&key.subscription), kind, key.round) {
            return Sending::NotSubscribed;
        }
        if let Some(row) = self.deliveries.get_mut(key) {
            row.delivery.state = DeliveryState::Sending;
            row.lease = Some((token, until));
            row.counted = false;
        }
        record(Event::Sending { key: *key });
        Sending::Recorded
    }

    fn settle_delivery(
        &mut self,
        (key, token, outcome): (DeliveryKey, LeaseToken, Outcome),
        at: Timestamp,
        record: Record<'_>,
    ) -> Result<()> {
        let Some(row) = self.held_delivery(&key, token) else {
            return Err(Error::lease_lost(format!("delivery {key} is held by another or settled")));
        };
        row.delivery = after(row.delivery.clone(), &outcome, at);
        row.lease = None;
        let Delivery { state, attempts, unknowns, .. } = row.delivery;
        record(Event::Settled { key, state, attempts, unknowns });
        if !state.is_open() {
            self.open.remove(&key);
        }
        if let Outcome::Failed { dead_letter, .. } = outcome {
            self.put_dead_letter(*dead_letter, record);
        }
        Ok(())
    }

    fn revive(&mut self, key: DeliveryKey, due_at: Timestamp, record: Record<'_>) {
        let Some(row) = self.deliveries.get_mut(&key) else { return };
        if row.delivery.state == DeliveryState::Failed {
            row.delivery.state = DeliveryState::Pending;
            row.delivery.due_at = due_at;
            row.delivery.attempts = 0;
            row.delivery.unknowns = 0;
            row.lease = None;
            self.open.insert(key);
            record(Event::Revived { key });
        }
    }

    fn about(&self, about: Uuid) -> impl Iterator<Item = &Delivery> {
        let key = |subscription, round| DeliveryKey {
            about,
            subscription: tidings_domain::id::SubscriptionId(subscription),
            round,
        };
        self.deliveries.range(key(Uuid::nil(), 0)..=key(Uuid::max(), u32::MAX)).map(|(_, row)| &row.delivery)
    }

    fn timeline(&self, id: MessageId) -> Timeline {
        let mut timeline = Timeline::unknown(id);
        if let Some(item) = self.items.get(&id) {
            timeline.accepted_at = Some(item.message.accepted_at);
            timeline.stored_at = Some(item.stored_at);
        }
        let mut rounds = self.notifications.range((id, 0)..=(id, u32::MAX)).map(|(_, row)| row).peekable();
        if let Some(first) = rounds.peek() {
            timeline.captured_at = Some(first.captured_at);
            timeline.published_at = Some(first.published_at);
            timeline.expanded = rounds.all(|row| row.cursor == Cursor::Finished);
        }
        for delivery in self.about(id.0) {
            count(&mut timeline.deliveries, delivery.state);
            if let Some(at) = delivery.sent_at {
                timeline.first_mail_at = Some(timeline.first_mail_at.map_or(at, |first| first.min(at)));
                timeline.last_mail_at = Some(timeline.last_mail_at.map_or(at, |last| last.max(at)));
            }
        }
        let letters = self.dead_letters.values().filter(|row| row.letter.message_id == Some(id.0));
        // Of what is stored, a letter from before that is another's: something else under its id.
        let stored = timeline.stored_at.is_some();
        let letters = letters.filter(|row| !(stored && row.letter.source == DeadLetterSource::Items));
        timeline.dead_letters = letters.count() as u64;
        timeline
    }
}

fn count(counts: &mut DeliveryCounts, state: DeliveryState) {
    *match state {
        DeliveryState::Pending => &mut counts.pending,
        DeliveryState::Sending => &mut counts.sending,
        DeliveryState::Sent => &mut counts.sent,
        DeliveryState::Suppressed => &mut counts.suppressed,
        DeliveryState::Failed => &mut counts.failed,
    } += 1;
}

#[async_trait]
impl Deliveries for Memory {
    async fn expansions(&self, notifications: &[Notification]) -> Result<Vec<Cursor>> {
        self.shared()
            .operate(Part::Store, |state, _| Ok(notifications.iter().map(|n| state.expansion(n)).collect()))
            .await
    }

    async fn rounds(&self, items: &[MessageId]) -> Result<Vec<u32>> {
        self.shared()
            .operate(Part::Store, |state, _| {
                let rounds = |id: &MessageId| {
                    let last = state.notifications.range((*id, 0)..=(*id, u32::MAX)).next_back();
                    last.map_or(0, |((_, round), _)| round.saturating_add(1))
                };
                Ok(items.iter().map(rounds).collect())
            })
            .await
    }

    async fn plan(&self, plans: Vec<Plan>) -> Result<Vec<Planned>> {
        self.shared()
            .operate(Part::Store, |state, record| {
                Ok(plans.into_iter().map(|plan| state.plan(plan, record)).collect())
            })
            .await
    }

    async fn claim(&self, max: u32, claim: &Claim) -> Result<Vec<ClaimedDelivery>> {
        self.shared().operate(Part::Store, |state, record| Ok(state.claim(max, claim, record))).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>> {
        self.shared()
            .operate(Part::Store, |state, _| {
                Ok(state.open.iter().map(|key| State::claimable_at(&state.deliveries[key])).min())
            })
            .await
    }

    async fn sending(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<Sending>> {
        self.shared()
            .operate(Part::Store, |state, record| {
                Ok(held.iter().map(|(key, token)| state.send(key, *token, until, record)).collect())
            })
            .await
    }

    async fn extend(&self, held: &[(DeliveryKey, LeaseToken)], until: Timestamp) -> Result<Vec<bool>> {
        self.shared()
            .operate(Part::Store, |state, _| {
                let mut extend = |(key, token): &(DeliveryKey, LeaseToken)| {
                    let row = state.held_delivery(key, *token);
                    row.map(|row| row.lease = Some((*token, until))).is_some()
                };
                Ok(held.iter().map(&mut extend).collect())
            })
            .await
    }

    async fn settle(
        &self,
        outcomes: Vec<(DeliveryKey, LeaseToken, Outcome)>,
        at: Timestamp,
    ) -> Result<Vec<Result<()>>> {
        self.shared()
            .operate(Part::Store, |state, record| {
                Ok(outcomes.into_iter().map(|outcome| state.settle_delivery(outcome, at, record)).collect())
            })
            .await
    }

    async fn revive(&self, keys: &[DeliveryKey], due_at: Timestamp) -> Result<()> {
        self.shared()
            .operate(Part::Store, |state, record| {
                keys.iter().for_each(|key| state.revive(*key, due_at, record));
                Ok(())
            })
            .await
    }

    async fn timelines(&self, ids: &[MessageId]) -> Result<Vec<Timeline>> {
        self.shared()
            .operate(Part::Store, |state, _| Ok(ids.iter().map(|id| state.timeline(*id)).collect()))
            .await
    }

    async fn list(&self, about: Uuid, page: &PageRequest) -> Result<Page<Delivery>> {
        let after = page.cursor.as_deref().map(decode_cursor).transpose()?;
        self.shared()
            .operate(Part::Store, move |state, _| {
                let key =
                    |delivery: &Delivery| (delivery.created_at.as_millis(), delivery.key.subscription.0);
                let older = |delivery: &&Delivery| after.is_none_or(|after| key(delivery) < after);
                let mut rows: Vec<Delivery> = state.about(about).filter(older).cloned().collect();
                rows.sort_by_key(|delivery| std::cmp::Reverse(key(delivery)));
                Ok(Page::cut(rows, page.limit, |delivery| {
                    let (millis, id) = key(delivery);
                    encode_cursor(millis, id)
                }))
            })
            .await
    }

    async fn counts(&self) -> Result<DeliveryCounts> {
        self.shared()
            .operate(Part::Store, |state, _| {
                let mut counts = DeliveryCounts::default();
                state.deliveries.values().for_each(|row| count(&mut counts, row.delivery.state));
                counts.sent = 0;
                Ok(counts)
            })
            .await
    }

    async fn ping(&self) -> Result<()> {
        self.shared().operate(Part::Store, |_, _| Ok(())).await
    }
}
