//! Running seeds.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tidings_memory::Event;

use crate::{
    Summary, Violation,
    invariants::violations,
    ledger::Account,
    mutants::Mutant,
    plan::{Plan, Weather},
    world::{World, line},
};

/// How many of the last events a failing seed prints.
const LAST_EVENTS: usize = 100;

/// One seed's run, judged.
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// The hash of every event, in order.
    pub hash: u64,
    /// What is against the promises.
    pub violations: Vec<Violation>,
    /// How long it took by its own clock.
    pub lasted: Duration,
    /// Processes that crashed.
    pub crashes: u64,
    /// What there is to count and to judge.
    pub(crate) account: Account,
}

/// Runs one seed, with a planted bug or without, in its own weather or in another.
pub fn run(seed: u64, mutant: Option<Mutant>, weather: Option<Weather>) -> Run {
    let plan = Plan::draw(seed, weather);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O needs nothing of the system");
    let over = runtime.block_on(World::happen(&plan, mutant));
    let violations = violations(&over.account);
    Run {
        seed,
        hash: over.hash,
        violations,
        lasted: over.lasted,
        crashes: over.crashes,
        account: over.account,
    }
}

impl Run {
    /// What a failing seed prints: what is wrong, the last events, and how to see it again.
    pub fn failure(&self) -> String {
        let mut text = format!("seed {} ({:?}) fails:\n", self.seed, self.account.plan.weather);
        for violation in &self.violations {
            text.push_str(&format!("  {violation}\n"));
        }
        let events = &self.account.events;
        text.push_str(&format!("the last of {} events:\n", events.len()));
        for recorded in &events[events.len().saturating_sub(LAST_EVENTS)..] {
            text.push_str(&line(recorded));
            text.push('\n');
        }
        text.push_str(&format!("again: cargo xtask simulate --seed {}\n", self.seed));
        text
    }

    /// What its seed decided, and every event.
    pub fn story(&self) -> String {
        let mut text = format!("{:#?}\n", self.account.plan);
        for recorded in &self.account.events {
            text.push_str(&line(recorded));
            text.push('\n');
        }
        text
    }

    /// How many mails the server took.
    pub(crate) fn mails(&self) -> u64 {
        self.count(|event| matches!(event, Event::Mailed { .. }))
    }

    /// How many unknowns were counted by a claim.
    pub(crate) fn count(&self, is: impl Fn(&Event) -> bool) -> u64 {
        self.account.events.iter().filter(|recorded| is(&recorded.event)).count() as u64
    }
}

/// Runs `count` seeds from `first` on `threads` threads, each seed in a runtime of its own; `seen` gets every run.
pub fn run_all(first: u64, count: u64, threads: usize, seen: &(dyn Fn(&Run) + Sync)) -> Summary {
    let next = AtomicU64::new(0);
    let summary = Mutex::new(Summary::default());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    if at >= count {
                        return;
                    }
                    let run = run(first + at, None, None);
                    seen(&run);
                    summary.lock().unwrap_or_else(PoisonError::into_inner).add(&run);
                }
            });
        }
    });
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}
