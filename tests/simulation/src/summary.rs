//! What many seeds come to, in a line.

use std::{collections::BTreeMap, time::Duration};

use tidings_memory::Event;

use crate::{faults::Kind, run::Run};

/// What was run.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// Seeds.
    pub seeds: u64,
    /// Seeds that failed, in order.
    pub failed: Vec<u64>,
    /// Messages that clients and others sent.
    pub messages: u64,
    /// Items.
    pub items: u64,
    /// Mails that the server took.
    pub mails: u64,
    /// Unknown outcomes of mails.
    pub unknowns: u64,
    /// Dead letters written.
    pub dead_letters: u64,
    /// Processes that crashed.
    pub crashes: u64,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Events.
    pub events: u64,
    /// By the runs' own clocks.
    pub lasted: Duration,
}

impl Summary {
    /// Adds a run.
    pub fn add(&mut self, run: &Run) {
        self.seeds += 1;
        if !run.violations.is_empty() {
            self.failed.push(run.seed);
            self.failed.sort_unstable();
        }
        self.messages += (run.account.posts.len() + run.account.foreign.len()) as u64;
        self.items += run.account.rows.items.len() as u64;
        self.mails += run.mails();
        self.unknowns +=
            run.account.rows.deliveries.iter().map(|delivery| u64::from(delivery.unknowns)).sum::<u64>();
        self.dead_letters += run.count(|event| matches!(event, Event::DeadLettered { .. }));
        self.crashes += run.crashes;
        self.events += run.account.events.len() as u64;
        self.lasted += run.lasted;
        for (kind, count) in &run.account.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let faults: Vec<String> =
            self.faults.iter().map(|(kind, count)| format!("{kind:?} {count}")).collect();
        write!(
            f,
            "{} seeds, {} failed: {} messages, {} items, {} mails, {} unknowns, {} dead letters, {} crashes, \
             {} events, {:.1} h of virtual time; faults: {}",
            self.seeds,
            self.failed.len(),
            self.messages,
            self.items,
            self.mails,
            self.unknowns,
            self.dead_letters,
            self.crashes,
            self.events,
            self.lasted.as_secs_f64() / 3600.0,
            if faults.is_empty() { "none".to_owned() } else { faults.join(", ") },
        )
    }
}
