//! Health: what each part of a process says of itself, and what its adapters last saw. No I/O: a probe never writes.

mod gauges;
mod lasting;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde::Serialize;
use tidings_domain::ports::{Dependency, DependencyState};

pub use lasting::LastingFault;

/// What a part waits for before it has said anything.
const STARTING: &str = "starting";

/// How a part is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum PartState {
    /// It works.
    Up,
    /// It works, worse than it should, for this reason.
    Degraded(String),
    /// It does not work yet, or not now, and waits for what is named.
    Waiting(String),
    /// It has stopped for good, for this reason; a person has to act.
    Stopped(String),
    /// Another holds what only one can hold.
    StandingBy,
}

impl PartState {
    fn is_ready(&self) -> bool {
        matches!(self, Self::Up | Self::Degraded(_) | Self::StandingBy)
    }
}

/// The parts and dependencies of one process. Clones are the same.
#[derive(Clone, Default)]
pub struct Health {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    parts: BTreeMap<String, PartState>,
    dependencies: Vec<Arc<dyn Dependency>>,
    /// The names of those without which nothing works.
    needed: BTreeSet<String>,
}

/// What one part says of itself.
#[derive(Clone)]
pub struct Part {
    health: Health,
    name: Arc<str>,
}

/// What a probe is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every part works, and every dependency that all of them need.
    pub ready: bool,
    /// Whether something works worse than it should.
    pub degraded: bool,
    /// Each part with its state.
    pub parts: BTreeMap<String, PartState>,
    /// Each dependency with what its adapter last saw.
    pub dependencies: BTreeMap<String, PartState>,
    /// What a dependency cannot do as the settings are. It makes nothing degraded: it is as somebody has chosen.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<String, String>,
}

impl Health {
    /// Nothing to say yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A part named `name`, waiting to start.
    pub fn part(&self, name: impl Into<Arc<str>>) -> Part {
        let part = Part { health: self.clone(), name: name.into() };
        part.set(PartState::Waiting(STARTING.to_owned()));
        part
    }

    /// Adds a dependency. Its state is shown; it decides nothing of readiness, the parts do.
    pub fn depends_on(&self, dependency: Arc<dyn Dependency>) {
        self.lock().dependencies.push(dependency);
    }

    /// Adds a dependency without which no part can do its work: while it is down, nothing is ready, also where no part has
    /// had reason to notice.
    pub fn needs(&self, dependency: Arc<dyn Dependency>) {
        let mut inner = self.lock();
        inner.needed.insert(dependency.name().to_owned());
        inner.dependencies.push(dependency);
    }

    /// What a probe is told now.
    pub fn report(&self) -> Report {
        let inner = self.lock();
        let dependencies: BTreeMap<_, _> =
            inner.dependencies.iter().map(|d| (d.name().to_owned(), state_of(d.state()))).collect();
        let all = || inner.parts.values().chain(dependencies.values());
        let mut needed = inner.needed.iter().filter_map(|name| dependencies.get(name));
        Report {
            ready: !inner.parts.is_empty()
                && inner.parts.values().all(PartState::is_ready)
                && needed.all(PartState::is_ready),
            degraded: all().any(|state| !matches!(state, PartState::Up | PartState::StandingBy)),
            parts: inner.parts.clone(),
            dependencies,
            notes: inner
                .dependencies
                .iter()
                .filter_map(|d| Some((d.name().to_owned(), d.note()?.to_owned())))
                .collect(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Part {
    /// Says how it is doing; the first time of each state is logged.
    pub fn set(&self, state: PartState) {
        let before = self.health.lock().parts.insert(self.name.to_string(), state.clone());
        if before.as_ref() == Some(&state) {
            return;
        }
        let part = &*self.name;
        match state {
            // Every part starts; that one is up again is news.
            PartState::Up if before == Some(PartState::Waiting(STARTING.to_owned())) => {
                tracing::debug!(part, "up")
            }
            PartState::Up if before.is_some() => tracing::info!(part, "up"),
            PartState::Degraded(reason) => tracing::warn!(part, reason, "degraded"),
            PartState::Waiting(reason) if before.is_some() => tracing::warn!(part, reason, "waiting"),
            PartState::Stopped(reason) => tracing::error!(part, reason, "stopped"),
            PartState::StandingBy => tracing::info!(part, "standing by"),
            PartState::Up | PartState::Waiting(_) => {}
        }
    }

    /// It works.
    pub fn up(&self) {
        self.set(PartState::Up);
    }

    /// It waits for what `reason` names.
    pub fn waiting(&self, reason: impl Into<String>) {
        self.set(PartState::Waiting(reason.into()));
    }

    /// It works worse than it should.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(PartState::Degraded(reason.into()));
    }
}

fn state_of(state: DependencyState) -> PartState {
    match state {
        DependencyState::Up => PartState::Up,
        DependencyState::Degraded(reason) => PartState::Degraded(reason),
        DependencyState::Down(reason) => PartState::Waiting(reason),
        DependencyState::StandingBy => PartState::StandingBy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_part_is() {
        let health = Health::new();
        assert!(!health.report().ready);
        let part = health.part("items");
        assert!(!health.report().ready);
        part.up();
        assert!(health.report().ready && !health.report().degraded);
        part.waiting("rabbitmq");
        assert!(!health.report().ready);
        part.degraded("slow");
        assert!(health.report().ready && health.report().degraded);
    }

    struct Blind;

    impl Dependency for Blind {
        fn name(&self) -> &str {
            "bus"
        }

        fn state(&self) -> DependencyState {
            DependencyState::Up
        }

        fn note(&self) -> Option<&str> {
            Some("set EYES")
        }
    }

    #[test]
    fn a_note_is_told_and_changes_nothing() {
        let health = Health::new();
        health.part("items").up();
        assert!(health.report().notes.is_empty());
        health.needs(Arc::new(Blind));
        let report = health.report();
        assert!(report.ready && !report.degraded);
        assert_eq!(report.notes["bus"], "set EYES");
    }

    struct Full(&'static str);

    impl Dependency for Full {
        fn name(&self) -> &str {
            self.0
        }

        fn state(&self) -> DependencyState {
            DependencyState::Down("the disk is full".to_owned())
        }
    }

    #[test]
    fn a_dependency_decides_only_where_nothing_works_without_it() {
        let health = Health::new();
        health.part("items").up();
        health.depends_on(Arc::new(Full("smtp")));
        assert!(health.report().ready && health.report().degraded);
        health.needs(Arc::new(Full("sqlite")));
        let report = health.report();
        assert!(!report.ready, "no part has noticed: {report:?}");
        assert_eq!(report.dependencies["sqlite"], PartState::Waiting("the disk is full".to_owned()));
    }
}
