//! Memory passes every suite, under a paused clock: plain, and behind decorators that inject nothing or only slow.

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use tidings_conformance::{Adapter, Disturbance, Fixture, Need, OpenInsert, Ports, SentMail, Suite};
use tidings_domain::ports::{Limits, NewItem};
use tidings_memory::{
    Memory, Options, Part, Recorder, TakenMail,
    faults::{Fault, Faults, Faulty, FaultyMail, MailFault, MailFaults, MailRates, Rates},
    limits::InProcessLimits,
};

/// What stands before the ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    /// Decorators that inject nothing.
    Idle,
    /// Decorators whose calls begin and answer late.
    Slow,
}

struct MemoryAdapter {
    before: Before,
}

struct MemoryFixture {
    memory: Memory,
    limits: Arc<InProcessLimits>,
    before: Before,
    faults: Faults,
    mail_faults: MailFaults,
}

#[async_trait]
impl Adapter for MemoryAdapter {
    fn suites(&self) -> Vec<Suite> {
        vec![
            Suite::Bus,
            Suite::Topology,
            Suite::Items,
            Suite::Changes,
            Suite::Catalog,
            Suite::Subscriptions,
            Suite::Deliveries,
            Suite::DeadLetters,
            Suite::Limits,
            Suite::Mail,
            Suite::Mailbox,
        ]
    }

    fn cannot(&self, _need: Need) -> Option<&'static str> {
        None
    }

    async fn install(&self) -> Box<dyn Fixture> {
        let longest = Duration::from_millis(20);
        let shares = match self.before {
            Before::Slow => vec![(Fault::Slow, 0.3), (Fault::Hold, 0.3)],
            Before::Nothing | Before::Idle => Vec::new(),
        };
        Box::new(MemoryFixture {
            memory: Memory::new(Options::new(1)),
            limits: Arc::default(),
            before: self.before,
            faults: Faults::new(2, Rates { shares, longest }, Recorder::new()),
            mail_faults: MailFaults::new(3, MailRates::default(), Recorder::new()),
        })
    }

    fn runtime(&self) -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime without sockets")
    }
}

impl MemoryFixture {
    fn decorate(&self, ports: Ports) -> Ports {
        macro_rules! faulty {
            ($($port:ident),*) => {
                Ports {
                    $($port: ports.$port.map(|port| Arc::new(Faulty::new(port, &self.faults)) as _),)*
                    ..ports
                }
            };
        }
        faulty!(bus, topology, items, changes, catalog, subscriptions, deliveries, dead_letters, limits)
    }
}

#[async_trait]
impl Fixture for MemoryFixture {
    async fn open(&self) -> Ports {
        let memory = &self.memory;
        let ports = Ports {
            bus: Some(memory.bus()),
            topology: Some(memory.topology()),
            items: Some(memory.items()),
            changes: Some(memory.changes()),
            catalog: Some(memory.catalog()),
            subscriptions: Some(memory.subscriptions()),
            deliveries: Some(memory.deliveries()),
            dead_letters: Some(memory.dead_letters()),
            limits: Some(Arc::clone(&self.limits) as Arc<dyn Limits>),
            mail: Some(Arc::new(FaultyMail::new(memory.mail(), &self.mail_faults))),
            mailbox: Some(memory.mailbox()),
        };
        if self.before == Before::Nothing { ports } else { self.decorate(ports) }
    }

    async fn elapse(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn disturb(&self, what: Disturbance) {
        let every_mail = |fault| self.mail_faults.always(fault);
        match what {
            Disturbance::Blocked => self.memory.set_blocked(true),
            Disturbance::Restart => self.memory.restart(),
            Disturbance::Unbind => self.memory.unbind(),
            Disturbance::Unavailable => {
                [Part::Bus, Part::Store, Part::Mail]
                    .into_iter()
                    .for_each(|part| self.memory.set_away(part, true));
            }
            Disturbance::Gap => self.memory.lose_changes(),
            Disturbance::MailTransient => every_mail(MailFault::Transient),
            Disturbance::MailRecipient => every_mail(MailFault::Recipient),
            Disturbance::MailPermanent => every_mail(MailFault::Permanent),
            Disturbance::MailUnknown => every_mail(MailFault::LostAfter),
            Disturbance::MailLogin => every_mail(MailFault::Login),
        }
    }

    async fn mend(&self) {
        self.memory.set_blocked(false);
        [Part::Bus, Part::Store, Part::Mail].into_iter().for_each(|part| self.memory.set_away(part, false));
        self.mail_faults.set(MailRates::default());
    }

    async fn open_insert(&self, item: NewItem) -> Box<dyn OpenInsert> {
        Box::new(MemoryInsert { memory: self.memory.clone(), item })
    }

    async fn mails(&self) -> Vec<SentMail> {
        let sent = |mail: TakenMail| SentMail {
            from: mail.envelope.from.as_str().to_owned(),
            to: mail.envelope.to.as_str().to_owned(),
            message: mail.message,
        };
        self.memory.mails().into_iter().map(sent).collect()
    }
}

/// In memory nothing of a transaction is seen before its commit, and its place in the log is that of its commit.
struct MemoryInsert {
    memory: Memory,
    item: NewItem,
}

#[async_trait]
impl OpenInsert for MemoryInsert {
    async fn commit(self: Box<Self>) {
        self.memory.insert_foreign(self.item);
    }

    async fn roll_back(self: Box<Self>) {}
}

fn main() -> ExitCode {
    let adapter = |before| Arc::new(MemoryAdapter { before }) as Arc<dyn Adapter>;
    let adapters = vec![
        ("memory", adapter(Before::Nothing)),
        ("decorated", adapter(Before::Idle)),
        ("slowed", adapter(Before::Slow)),
    ];
    tidings_conformance::main_of(adapters).exit_code()
}
