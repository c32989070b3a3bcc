//! The sender: takes what is claimed and makes an attempt of each in a task of its own, so that a slow recipient holds
//! up nobody; stops beginning when the mail server is away, and begins again when it answers.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use tidings_domain::{
    Error, Result,
    delivery::Outcome,
    ports::{Clock, Deliveries, Entropy, Mail},
};
use tidings_runtime::{health::Part, shutdown::Shutdown, telemetry::Telemetry};
use tokio::task::{JoinError, JoinSet};

use crate::{
    attempt::{Attempts, waits_for},
    claimer::Claimer,
    gather::gather,
    leases::Leases,
    message::Mails,
    metrics::Metrics,
    outage::{Mode, Outage},
    outbox::{Gate, Outbox},
    settings::Settings,
};

/// How often a group looks for company under load, a millisecond apart. What is about to be sent holds a connection, what
/// was sent holds nothing but its place.
const SENDING_LOOKS: u32 = 1;
const SETTLING_LOOKS: u32 = 8;

/// What the sender lives with from restart to restart.
pub(crate) struct Sender {
    pub(crate) mail: Arc<dyn Mail>,
    pub(crate) deliveries: Arc<dyn Deliveries>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) mails: Arc<Mails>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) claimer: Arc<Claimer>,
    pub(crate) outage: Arc<Outage>,
    pub(crate) settings: Settings,
    pub(crate) telemetry: Telemetry,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) part: Part,
}

impl Sender {
    /// Sends until `shutdown`; then finishes what is under way and gives back what is not begun.
    pub(crate) async fn run(self: Arc<Self>, shutdown: Shutdown) -> Result<()> {
        let mut helpers = JoinSet::new();
        let attempts = Arc::new(self.attempts(&mut helpers));
        self.outage.reset();
        let _ = self.outbox.set(Gate::Open);
        self.part.up();
        let mut claiming = JoinSet::new();
        claiming.spawn(Arc::clone(&self.claimer).run());
        helpers.spawn(Arc::clone(&self).probe(Arc::clone(&attempts)));
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Some(ended) = helpers.join_next() => return Err(ended_early(ended)),
                Some(ended) = claiming.join_next() => return Err(ended_early(ended)),
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => note(ended),
                works = self.outbox.take() => {
                    for work in works {
                        let attempts = Arc::clone(&attempts);
                        tasks.spawn(async move { attempts.deliver(work).await });
                    }
                }
            }
        }
        self.outage.stop();
        for work in self.outbox.set(Gate::Closed) {
            let attempts = Arc::clone(&attempts);
            tasks.spawn(async move { attempts.release(work).await });
        }
        let finish = async {
            while let Some(ended) = claiming.join_next().await {
                note(ended);
            }
            while let Some(ended) = tasks.join_next().await {
                note(ended);
            }
        };
        // A little of the grace is left for those who come after us.
        if tokio::time::timeout(shutdown.grace().mul_f64(0.8), finish).await.is_err() {
            tracing::warn!(
                deliveries = tasks.len(),
                "mails under way at the end of the grace period are unknown"
            );
        }
        Ok(())
    }

    /// The attempts of this life, with the helpers that write for them.
    fn attempts(&self, helpers: &mut JoinSet<()>) -> Attempts {
        let most = self.outbox.size();
        let (deliveries, clock, lease) =
            (Arc::clone(&self.deliveries), Arc::clone(&self.clock), self.settings.lease());
        let (sending, run) = gather(most, SENDING_LOOKS, move |held: Vec<_>| {
            let (deliveries, until) = (Arc::clone(&deliveries), clock.now().plus(lease));
            async move { deliveries.sending(&held, until).await }
        });
        helpers.spawn(run);
        let (deliveries, clock) = (Arc::clone(&self.deliveries), Arc::clone(&self.clock));
        let (settling, run) = gather(most, SETTLING_LOOKS, move |outcomes: Vec<(_, _, Outcome)>| {
            let (deliveries, at) = (Arc::clone(&deliveries), clock.now());
            async move { deliveries.settle(outcomes, at).await }
        });
        helpers.spawn(run);
        let leases = Arc::new(Leases::default());
        let (keeper, deliveries, clock) =
            (Arc::clone(&leases), Arc::clone(&self.deliveries), Arc::clone(&self.clock));
        helpers.spawn(async move { keeper.keep(&*deliveries, &*clock, lease).await });
        Attempts {
            mail: Arc::clone(&self.mail),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            mails: Arc::clone(&self.mails),
            outage: Arc::clone(&self.outage),
            leases,
            settings: self.settings.clone(),
            telemetry: self.telemetry.clone(),
            metrics: Arc::clone(&self.metrics),
            sending,
            settling,
            strikes: Mutex::new(BTreeMap::new()),
        }
    }

    /// While the server is away: gives back what is not begun, probes with back-off, and lets one mail try first.
    async fn probe(self: Arc<Self>, attempts: Arc<Attempts>) {
        let backoff = self.settings.outage();
        let mut failures = 0_u32;
        loop {
            self.outage.nothing_begins().await;
            for work in self.outbox.set(Gate::Closed) {
                attempts.release(work).await;
            }
            let Mode::Away(reason) = self.outage.mode() else {
                // We stop; whoever runs us drops this.
                return std::future::pending().await;
            };
            self.part.waiting(&*reason);
            failures = failures.saturating_add(1);
            tokio::time::sleep(backoff.wait(failures, &*self.entropy)).await;
            match self.mail.ping().await {
                Err(error) => self.outage.goes_on(&waits_for(&error)),
                Ok(()) => {
                    self.outage.answered();
                    let _ = self.outbox.set(Gate::Trial);
                    self.outage.changed_from(&Mode::Trial).await;
                    if self.outage.mode() == Mode::Open {
                        failures = 0;
                        let _ = self.outbox.set(Gate::Open);
                        self.part.up();
                    }
                }
            }
        }
    }
}

fn ended_early(ended: std::result::Result<(), JoinError>) -> Error {
    match ended {
        Ok(()) => Error::transient("a helper of the sender ended by itself"),
        Err(error) => Error::transient("a helper of the sender failed").with_source(error),
    }
}

fn note(ended: std::result::Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an attempt panicked: its delivery is taken again when its lease has run out");
    }
}
