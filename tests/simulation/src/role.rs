//! The four services, each in one process or two.

/// Which service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// The api.
    Api,
    /// The subscriber.
    Subscriber,
    /// The cdc-watcher.
    Watcher,
    /// The mailer.
    Mailer,
}

impl Role {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Api, Self::Subscriber, Self::Watcher, Self::Mailer];
}

/// One process of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Instance {
    /// Which service.
    pub(crate) role: Role,
    /// Which of its processes, from 1.
    pub(crate) number: u8,
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {}", self.role, self.number)
    }
}
