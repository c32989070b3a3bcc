//! The claimer: leases what is due in the table when there is room, and hands it to the sender.

use std::{sync::Arc, time::Duration};

use tidings_domain::{
    Error, Result,
    delivery::{Claim, ClaimedDelivery, DeliveryKind, LeaseToken, Outcome},
    id::{MessageId, new_v7},
    ports::{Clock, Deliveries, Entropy, Items, Subscriptions},
};
use tidings_runtime::health::{LastingFault, Part};

use crate::{
    message::Mails,
    outage::{Mode, Outage},
    outbox::{Outbox, Places, Work},
    settings::Settings,
    subjects::Subjects,
};

/// How long a claim waits for more room, so that a long queue is not claimed row by row.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long it waits when others claimed what was due.
const CROWDED: Duration = Duration::from_millis(50);

/// How long one mail may be on trial before another is.
const TRIAL: Duration = Duration::from_secs(1);

pub(crate) struct Claimer {
    pub(crate) deliveries: Arc<dyn Deliveries>,
    pub(crate) items: Arc<dyn Items>,
    pub(crate) subscriptions: Arc<dyn Subscriptions>,
    pub(crate) subjects: Arc<Subjects>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) mails: Arc<Mails>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) outage: Arc<Outage>,
    pub(crate) settings: Settings,
    pub(crate) owner: String,
    pub(crate) part: Part,
}

impl Claimer {
    /// Claims until we stop.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut failures = 0_u32;
        let mut fault = LastingFault::default();
        // Whether there is more than what was claimed.
        let mut more = true;
        loop {
            let step = match self.outage.mode() {
                Mode::Stopping => return,
                mode @ Mode::Away(_) => {
                    self.outage.changed_from(&mode).await;
                    more = true;
                    continue;
                }
                mode => self.step(&mode, more).await,
            };
            match step {
                Ok(full) => {
                    (more, failures) = (full, 0);
                    fault.ended();
                    self.part.up();
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.part.waiting(fault.reason(&error));
                    self.idle(self.settings.outage().wait(failures, &*self.entropy)).await;
                }
            }
        }
    }

    /// Claims what is due, or waits for it; answers whether there is more.
    async fn step(&self, mode: &Mode, more: bool) -> Result<bool> {
        if !more {
            let due_at = self.deliveries.next_due().await?;
            let now = self.clock.now();
            if due_at.is_none_or(|due_at| due_at > now) {
                let due = due_at.map(|due_at| due_at.since(now));
                self.idle_or_told(due.map_or(self.settings.poll(), |due| due.min(self.settings.poll())))
                    .await;
                return Ok(false);
            }
        }
        let trial = *mode == Mode::Trial;
        let wanted = if trial { 1 } else { self.outbox.size() / 4 };
        let places = tokio::select! {
            biased;
            () = self.outage.nothing_begins() => return Ok(true),
            places = self.outbox.places(wanted, PATIENCE) => places,
        };
        let max = if trial { 1 } else { u32::try_from(places.count()).unwrap_or(u32::MAX) };
        let claim = claim(&self.owner, &*self.clock, &*self.entropy, self.settings.lease());
        let claimed = self.deliveries.claim(max, &claim).await?;
        let count = claimed.len();
        if trial {
            self.hand_over(claimed, places, true).await?;
            return Ok(self.trial(count).await);
        }
        self.hand_over(claimed, places, false).await?;
        if count == 0 && !more {
            // Others were faster, or what is due is held by someone whose clock differs.
            self.idle_or_told(CROWDED).await;
        }
        Ok(count > 0 && count == max as usize)
    }

    /// Waits until the mail on trial has decided something, or is over without deciding anything.
    async fn trial(&self, count: usize) -> bool {
        if count == 0 {
            // Nothing is due: the answer to the probe is all that is to be known.
            self.outage.passed();
            return true;
        }
        tokio::select! {
            biased;
            () = self.outage.changed_from(&Mode::Trial) => {}
            () = self.outbox.freed() => {}
            () = tokio::time::sleep(TRIAL) => {}
        }
        true
    }

    async fn hand_over(&self, claimed: Vec<ClaimedDelivery>, places: Places, trial: bool) -> Result<()> {
        if claimed.is_empty() {
            return Ok(());
        }
        let works = match self.load(&claimed, places).await {
            Ok(works) => works,
            Err(error) => {
                release(&*self.deliveries, &*self.clock, &claimed).await;
                return Err(error);
            }
        };
        if trial {
            // Loading gave back the places that one mail does not need.
            self.outbox.forget_freed();
        }
        if let Err(works) = self.outbox.hand_over(works) {
            let claimed: Vec<_> = works.into_iter().map(|work| work.claimed).collect();
            release(&*self.deliveries, &*self.clock, &claimed).await;
        }
        Ok(())
    }

    /// Reads what the mails are made of, one query for all of a kind.
    async fn load(&self, claimed: &[ClaimedDelivery], mut places: Places) -> Result<Vec<Work>> {
        let mut ids: Vec<_> = (claimed.iter().map(|claimed| &claimed.delivery))
            .filter(|delivery| delivery.kind == DeliveryKind::Item)
            .map(|delivery| MessageId(delivery.key.about))
            .collect();
        ids.sort_unstable();
        ids.dedup();
        let mut prepared = std::collections::BTreeMap::new();
        if !ids.is_empty() {
            for item in self.items.get(&ids).await?.into_iter().flatten() {
                let subject = self.subjects.of_topic(&item).await?;
                let mail = self.mails.prepare(&item, subject.as_ref().map(|subject| subject.as_str()));
                prepared.insert(item.message.id.uuid(), mail);
            }
        }
        let mut to: Vec<_> = claimed.iter().map(|claimed| claimed.delivery.key.subscription).collect();
        to.sort_unstable();
        to.dedup();
        let found = self.subscriptions.get(&to).await?;
        let found: std::collections::BTreeMap<_, _> =
            found.into_iter().flatten().map(|subscription| (subscription.id, subscription)).collect();
        claimed
            .iter()
            .map(|claimed| {
                let key = claimed.delivery.key;
                let place =
                    places.take_one().ok_or_else(|| Error::transient("more was claimed than asked for"))?;
                Ok(Work {
                    claimed: claimed.clone(),
                    item: prepared.get(&key.about).cloned(),
                    subscription: found.get(&key.subscription).cloned(),
                    place,
                })
            })
            .collect()
    }

    /// Waits, or less when something was planned, or the server goes away or we stop.
    async fn idle_or_told(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = self.outage.nothing_begins() => {}
            () = self.outbox.unclaimed() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }

    async fn idle(&self, wait: Duration) {
        tokio::select! {
            biased;
            () = self.outage.nothing_begins() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// A claim with a fresh token.
pub(crate) fn claim(owner: &str, clock: &dyn Clock, entropy: &dyn Entropy, lease: Duration) -> Claim {
    let at = clock.now();
    Claim { token: LeaseToken(new_v7(clock, entropy)), owner: owner.to_owned(), at, until: at.plus(lease) }
}

/// Gives claimed rows back as they were. What fails is given back by its lease's end. So is a row that was found
/// `sending`: released it would be pending, and whoever claimed it next would not know that it may have been sent.
pub(crate) async fn release(deliveries: &dyn Deliveries, clock: &dyn Clock, claimed: &[ClaimedDelivery]) {
    let outcome = |claimed: &ClaimedDelivery| {
        let delivery = &claimed.delivery;
        (delivery.key, claimed.token, Outcome::Released { due_at: delivery.due_at })
    };
    let outcomes: Vec<_> = claimed.iter().filter(|claimed| !claimed.unknown).map(outcome).collect();
    if outcomes.is_empty() {
        return;
    }
    if let Err(error) = deliveries.settle(outcomes, clock.now()).await {
        tracing::warn!(
            error = error.chain(),
            count = claimed.len(),
            "claimed deliveries wait for their leases to end"
        );
    }
}
