//! The four services.

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
