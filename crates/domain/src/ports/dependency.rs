/// How something that a process needs is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DependencyState {
    /// It answers.
    Up,
    /// It is away or ill and the process goes on without it, for this reason.
    Degraded(String),
    /// It is away and the process cannot do its work, for this reason.
    Down(String),
    /// Another holds what only one can hold.
    StandingBy,
}

/// What an adapter last saw of its server. No I/O: readiness reads only this.
pub trait Dependency: Send + Sync {
    /// Its name as people know it: `sqlite`, `rabbitmq`, `smtp`.
    fn name(&self) -> &str;

    /// Its state as of the last call that the adapter made.
    fn state(&self) -> DependencyState;

    /// What it cannot do as the settings are, and which one would mend it: a choice, and no trouble. None where nothing is
    /// missing.
    fn note(&self) -> Option<&str> {
        None
    }
}
