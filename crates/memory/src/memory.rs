//! A memory: every port over one state.

use std::sync::Arc;

use tidings_domain::{
    ports::{
        Bus, Catalog, Changes, DeadLetters, Deliveries, Dependency, DependencyState, Items, Mail, Mailbox,
        NewItem, Queue, Subscriptions, Topology,
    },
    topic::TopicName,
};

use crate::{
    Event, Options, Part, PausedClock, TakenMail,
    shared::{Shared, State},
};

/// Every port in process. Clones are the same memory. Provisioned from the start: the secret, and the topic `messages`
/// with its topology.
#[derive(Clone)]
pub struct Memory {
    shared: Arc<Shared>,
    clock: PausedClock,
}

macro_rules! accessors {
    ($($name:ident: $port:ident,)*) => {
        impl Memory {
            $(
                #[doc = concat!("The port `", stringify!($port), "`.")]
                pub fn $name(&self) -> Arc<dyn $port> {
                    Arc::new(self.clone())
                }
            )*
        }
    };
}

accessors! {
    bus: Bus,
    topology: Topology,
    items: Items,
    changes: Changes,
    catalog: Catalog,
    subscriptions: Subscriptions,
    deliveries: Deliveries,
    dead_letters: DeadLetters,
    mail: Mail,
    mailbox: Mailbox,
    dependency: Dependency,
}

impl Memory {
    /// A fresh memory.
    pub fn new(options: Options) -> Self {
        let memory = Self { shared: Arc::new(Shared::new(options)), clock: PausedClock::new() };
        let mut state = memory.shared.lock();
        state.notifications_declared = true;
        state.declared.insert(TopicName::messages());
        state.bound.insert(crate::topology::NOTIFICATIONS.to_owned());
        state.bound.insert(TopicName::messages().as_str().to_owned());
        drop(state);
        memory
    }

    /// The clock that its stream and its mail server go by: tokio's, from [`crate::epoch`].
    pub fn clock(&self) -> PausedClock {
        self.clock
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// A server goes away or comes back, for everyone at once. Calls to one that is away are *unavailable*.
    pub fn set_away(&self, part: Part, away: bool) {
        self.change(|state| {
            if away {
                state.away.insert(part)
            } else {
                state.away.remove(&part)
            };
        });
    }

    /// The broker takes nothing and answers nothing, or does again.
    pub fn set_blocked(&self, blocked: bool) {
        self.change(|state| state.blocked = blocked);
    }

    /// The bindings are gone; topics and queues stand.
    pub fn unbind(&self) {
        self.change(|state| state.bound.clear());
    }

    /// The servers end and start again: consumers and streams are dead, what they held is given back.
    pub fn restart(&self) {
        let events = self.shared.lock().restart();
        for event in events {
            self.shared.record(event);
        }
        self.change(|_| {});
    }

    /// What of the change log is not confirmed can no longer be read.
    pub fn lose_changes(&self) {
        self.change(|state| state.gap = true);
    }

    /// How many messages a queue has, held or not.
    pub fn depth(&self, queue: Queue) -> usize {
        self.shared.lock().depth(queue)
    }

    /// How many changes are not confirmed.
    pub fn unconfirmed(&self) -> usize {
        self.shared.lock().log.len()
    }

    /// What the mail server took so far, oldest first.
    pub fn mails(&self) -> Vec<TakenMail> {
        self.shared.lock().mails.clone()
    }

    /// A row that another party writes into `items` in one step, with plain SQL as it were.
    pub fn insert_foreign(&self, item: NewItem) {
        let mut event = None;
        self.change(|state| {
            let id = item.message.id;
            let answer = state.insert_item(item);
            event = Some(Event::Inserted { id, answer });
        });
        if let Some(event) = event {
            self.shared.record(event);
        }
    }

    /// A message that another party puts into a queue by its own means, whatever it is.
    pub fn publish_foreign(&self, queue: Queue, envelope: tidings_domain::wire::Envelope) {
        let mut message = 0;
        self.change(|state| message = state.put_message(queue, envelope.clone()));
        let topic = match queue {
            Queue::Mail | Queue::MailDead => tidings_domain::ports::BusTopic::Notifications,
            Queue::Items | Queue::ItemsDead => {
                let name = envelope.published_to.clone().unwrap_or_else(TopicName::messages);
                tidings_domain::ports::BusTopic::Messages(name)
            }
        };
        self.shared.record(Event::Published { topic, message, envelope });
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.shared.lock());
        self.shared.queues_changed.notify_waiters();
        self.shared.log_changed.notify_waiters();
    }
}

impl Dependency for Memory {
    fn name(&self) -> &str {
        "memory"
    }

    fn state(&self) -> DependencyState {
        match self.shared.lock().away.first() {
            Some(part) => DependencyState::Down(format!("the {part:?} is away")),
            None => DependencyState::Up,
        }
    }
}

#[cfg(test)]
mod tests;
