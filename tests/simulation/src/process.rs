//! A service's process: its ports with whatever stands between, its `run`, and its end.

use std::sync::Arc;

use tidings_api::Api;
use tidings_domain::{
    Result,
    address::EmailAddress,
    ports::{
        Bus, Catalog, Changes, DeadLetters, Deliveries, Entropy, Items, Limits, Mail, Subscriptions, Topology,
    },
    token::Secret,
};
use tidings_mailer::Ambiguous;
use tidings_memory::{Memory, SeededEntropy, limits::InProcessLimits};
use tidings_runtime::{health::Health, shutdown::Shutdown, telemetry::Telemetry};

use crate::{
    door::Door,
    faults::{Faulty, Line},
    mutants::{Mutant, Mutated},
    plan::Plan,
    role::Role,
    wall::WallClock,
};

/// What every process is made from.
pub(crate) struct Site {
    pub(crate) memory: Memory,
    pub(crate) wall: WallClock,
    pub(crate) plan: Plan,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) secret: Secret,
    pub(crate) door: Door,
}

/// What makes one life of one service's process.
struct Maker<'a> {
    site: &'a Site,
    line: &'a Line,
    entropy: Arc<SeededEntropy>,
}

impl Site {
    /// The future of one life: it ends when it was asked to, or with the reason of a loop that kept dying. The api opens
    /// the door at once.
    pub(crate) fn start(
        &self,
        line: &Line,
        entropy: SeededEntropy,
        shutdown: Shutdown,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>> {
        let maker = Maker { site: self, line, entropy: Arc::new(entropy) };
        match line.instance.role {
            Role::Api => {
                let api = Api::new(maker.api());
                self.door.open(line.life, api.router());
                Box::pin(tidings_api::run(api, shutdown))
            }
            Role::Subscriber => Box::pin(tidings_subscriber::run(maker.subscriber(), shutdown)),
            Role::Watcher => Box::pin(tidings_cdc_watcher::run(maker.watcher(), shutdown)),
            Role::Mailer => Box::pin(tidings_mailer::run(maker.mailer(), shutdown)),
        }
    }
}

impl Maker<'_> {
    fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::<SeededEntropy>::clone(&self.entropy)
    }

    fn bus(&self) -> Arc<dyn Bus> {
        Mutated::new(Faulty::new(self.site.memory.bus(), self.line) as Arc<dyn Bus>, self.site.mutant)
    }

    fn items(&self) -> Arc<dyn Items> {
        Mutated::new(Faulty::new(self.site.memory.items(), self.line) as Arc<dyn Items>, self.site.mutant)
    }

    fn catalog(&self) -> Arc<dyn Catalog> {
        Faulty::new(self.site.memory.catalog(), self.line)
    }

    fn subscriptions(&self) -> Arc<dyn Subscriptions> {
        Faulty::new(self.site.memory.subscriptions(), self.line)
    }

    fn deliveries(&self) -> Arc<dyn Deliveries> {
        let faulty: Arc<dyn Deliveries> = Faulty::new(self.site.memory.deliveries(), self.line);
        Mutated::new(faulty, self.site.mutant)
    }

    fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Faulty::new(self.site.memory.dead_letters(), self.line)
    }

    fn api(&self) -> tidings_api::Context {
        let topology: Arc<dyn Topology> = Faulty::new(self.site.memory.topology(), self.line);
        let limits: Arc<dyn Limits> =
            Faulty::new(Arc::new(InProcessLimits::default()) as Arc<dyn Limits>, self.line);
        tidings_api::Context {
            bus: self.bus(),
            topology,
            items: self.items(),
            catalog: self.catalog(),
            subscriptions: self.subscriptions(),
            deliveries: self.deliveries(),
            dead_letters: self.dead_letters(),
            limits,
            mailbox: Some(self.site.memory.mailbox()),
            clock: Arc::new(self.site.wall.clone()),
            entropy: self.entropy(),
            health: Health::new(),
            telemetry: Telemetry::none(),
            secret: self.site.secret.clone(),
            settings: tidings_api::Settings { auth: tidings_api::Auth::Off, ..Default::default() },
        }
    }

    fn subscriber(&self) -> tidings_subscriber::Context {
        tidings_subscriber::Context {
            bus: self.bus(),
            items: self.items(),
            dead_letters: self.dead_letters(),
            clock: Arc::new(self.site.wall.clone()),
            entropy: self.entropy(),
            health: Health::new(),
            telemetry: Telemetry::none(),
            settings: tidings_subscriber::Settings { batch: 4, prefetch: 16, ..Default::default() },
        }
    }

    fn watcher(&self) -> tidings_cdc_watcher::Context {
        let changes: Arc<dyn Changes> = Faulty::new(self.site.memory.changes(), self.line);
        tidings_cdc_watcher::Context {
            changes: Mutated::new(changes, self.site.mutant),
            bus: self.bus(),
            dead_letters: self.dead_letters(),
            clock: Arc::new(self.site.wall.clone()),
            entropy: self.entropy(),
            health: Health::new(),
            telemetry: Telemetry::none(),
            settings: tidings_cdc_watcher::Settings { batch: 4, ..Default::default() },
        }
    }

    fn mailer(&self) -> tidings_mailer::Context {
        let mail: Arc<dyn Mail> = Faulty::new(self.site.memory.mail(), self.line);
        let settings = tidings_mailer::Settings {
            mail_from: EmailAddress::parse("tidings@example.org").expect("an address"),
            page_size: self.site.plan.page_size,
            concurrency: 8,
            lease_ms: u64::try_from(self.site.plan.mail_lease.as_millis()).unwrap_or(10_000),
            attempts: 4,
            retry_first_s: 1,
            retry_most_s: 15,
            outage_most_ms: 5_000,
            ambiguous: if self.site.plan.holds_unknown { Ambiguous::Hold } else { Ambiguous::Retry },
            ..Default::default()
        };
        tidings_mailer::Context {
            bus: self.bus(),
            items: self.items(),
            subscriptions: self.subscriptions(),
            deliveries: self.deliveries(),
            catalog: self.catalog(),
            dead_letters: self.dead_letters(),
            mail: Mutated::new(mail, self.site.mutant),
            clock: Arc::new(self.site.wall.clone()),
            entropy: self.entropy(),
            health: Health::new(),
            telemetry: Telemetry::none(),
            secret: self.site.secret.clone(),
            settings,
        }
    }
}
