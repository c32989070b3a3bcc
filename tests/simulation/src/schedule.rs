//! When what happens: drawn from the seed before the world begins, added to while it goes on.

use std::{collections::BTreeMap, time::Duration};

use tidings_memory::{Part, SeededEntropy};
use tokio::time::Instant;

use crate::{
    plan::{Person, Plan, Weather},
    role::Instance,
};

/// Something that clients, other parties or the world do.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Post,
    Batch,
    Subscribe(Person),
    Unsubscribe(Person),
    Meddle,
    Redrive,
    Discard,
    Read,
    Crash(Vec<Instance>),
    Stop(Instance),
    Away(Part, Duration),
    Back(Part),
    Block(Duration),
    Unblock,
    Unbind,
    Restart,
}

/// Acts by their time, and services that are to be started.
#[derive(Default)]
pub(crate) struct Schedule {
    acts: BTreeMap<(Duration, u64), Act>,
    starts: BTreeMap<(Instant, u64), Instance>,
    next: u64,
}

impl Schedule {
    /// What `plan` has in mind.
    pub(crate) fn draw(plan: &Plan, chance: &SeededEntropy) -> Self {
        let mut schedule = Self::default();
        let busy_ms = u64::try_from(plan.busy.as_millis()).unwrap_or(60_000);
        let at = |first_ms: u64, last_ms: u64| {
            Duration::from_millis(first_ms + chance.below(last_ms.saturating_sub(first_ms) + 1))
        };
        for person in &plan.people {
            // Half of them are there from the beginning.
            let last_ms = if chance.below(2) == 0 { 500 } else { busy_ms };
            schedule.add(at(0, last_ms), Act::Subscribe(person.clone()));
            if chance.below(5) == 0 {
                schedule.add(at(busy_ms / 2, busy_ms), Act::Unsubscribe(person.clone()));
            }
            if chance.below(6) == 0 {
                schedule.add(at(busy_ms / 2, busy_ms), Act::Subscribe(person.clone()));
            }
        }
        for _ in 0..plan.acts {
            let act = match chance.below(20) {
                0..10 => Act::Post,
                10 | 11 => Act::Batch,
                12..16 => Act::Meddle,
                16 | 17 => Act::Read,
                18 => Act::Redrive,
                _ => Act::Discard,
            };
            schedule.add(at(0, busy_ms), act);
        }
        for _ in 0..plan.events {
            let act = event(plan, chance);
            schedule.add(at(1_000, busy_ms), act);
        }
        schedule.add(plan.busy, Act::Redrive);
        schedule
    }

    pub(crate) fn add(&mut self, at: Duration, act: Act) {
        self.next += 1;
        self.acts.insert((at, self.next), act);
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        self.acts.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn pop(&mut self) -> Option<Act> {
        self.acts.pop_first().map(|(_, act)| act)
    }

    pub(crate) fn start_at(&mut self, at: Instant, instance: Instance) {
        self.next += 1;
        self.starts.insert((at, self.next), instance);
    }

    pub(crate) fn next_start(&self) -> Option<Instant> {
        self.starts.first_key_value().map(|((at, _), _)| *at)
    }

    pub(crate) fn pop_start(&mut self, now: Instant) -> Option<Instance> {
        self.starts.first_entry().filter(|entry| entry.key().0 <= now).map(|entry| entry.remove())
    }
}

/// Something that the world does in such weather.
fn event(plan: &Plan, chance: &SeededEntropy) -> Act {
    let all = plan.instances();
    let instance = all[usize::try_from(chance.below(all.len() as u64)).unwrap_or(0)];
    let lasts = |most_s: u64| Duration::from_millis(200 + chance.below(most_s * 1_000));
    let part = [Part::Bus, Part::Store, Part::Mail][usize::try_from(chance.below(3)).unwrap_or(0)];
    match (plan.weather, chance.below(10)) {
        (Weather::Calm, _) => Act::Stop(instance),
        (Weather::Outages, 0..8) => Act::Away(part, lasts(60)),
        (Weather::Outages, _) => Act::Stop(instance),
        (Weather::Storm, 0..3) => Act::Crash(vec![instance]),
        (Weather::Storm, 3) => Act::Crash(all),
        (Weather::Storm, 4) => Act::Stop(instance),
        (Weather::Storm, 5 | 6) => Act::Away(part, lasts(40)),
        (Weather::Storm, 7) => Act::Block(lasts(15)),
        (Weather::Storm, 8) => Act::Unbind,
        (Weather::Storm, _) => Act::Restart,
    }
}
