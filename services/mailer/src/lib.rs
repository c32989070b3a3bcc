//! The mailer: two loops over the table of deliveries.
//!
//! One takes notifications, writes a delivery for each recipient in pages and acknowledges a notification when every
//! row exists. The other sends what is due: mail transaction begun, `sending` recorded, mail handed over, outcome
//! settled. What the first plans it claims in the same statement when there is room, so that a mail is on its way at
//! once.

mod attempt;
mod backlog;
mod body;
mod claimer;
mod events;
mod expander;
mod gather;
mod leases;
mod letters;
mod message;
mod metrics;
mod outage;
mod outbox;
mod sender;
mod settings;
mod subjects;

use std::sync::Arc;

use tidings_domain::{
    Error, ErrorKind, Result,
    dead_letter::DeadLetterSource,
    id,
    ports::{Bus, Catalog, Clock, DeadLetters, Deliveries, Entropy, Items, Mail, Queue, Subscriptions},
    token::Secret,
};
use tidings_runtime::{
    consume::ConsumeLoop,
    handler::{Handler, Verdict},
    health::{Health, Part},
    redrive::{RedriveLoop, RedriveSettings},
    safety_net::SafetyNetLoop,
    shutdown::Shutdown,
    supervise::Supervisor,
    telemetry::Telemetry,
};

pub use settings::{Ambiguous, Settings};

/// All that the mailer may touch.
pub struct Context {
    /// Where notifications come from.
    pub bus: Arc<dyn Bus>,
    /// Read where a notification came without its message, and for deliveries planned earlier.
    pub items: Arc<dyn Items>,
    /// Who is mailed.
    pub subscriptions: Arc<dyn Subscriptions>,
    /// The queue of mails.
    pub deliveries: Arc<dyn Deliveries>,
    /// The topics' subjects.
    pub catalog: Arc<dyn Catalog>,
    /// Where that goes which cannot go on.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The mail server.
    pub mail: Arc<dyn Mail>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Lease tokens and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// What readiness shows.
    pub health: Health,
    /// Spans and metrics.
    pub telemetry: Telemetry,
    /// What links in mails are signed with.
    pub secret: Secret,
    /// Limits and waits.
    pub settings: Settings,
}

/// Runs the mailer until `shutdown`: Ok then, within the grace period; an error is the reason of a loop that kept dying.
/// *Misconfigured* when the sender or the public URL cannot stand in a mail.
pub async fn run(context: Context, shutdown: Shutdown) -> Result<()> {
    let context = Arc::new(context);
    let parts = Parts::new(&context)?;
    let (expander, sender, revive) = (parts.expander, parts.sender, parts.revive);
    let part = |name: &'static str| context.health.part(name);
    let (expanding, draining) = (part("expand notifications"), part("drain mail-dead"));
    let (redriving, reviving) = (part("redrive notifications"), part("redrive deliveries"));
    let (notifications, dead, letters, failed) =
        (Arc::clone(&context), Arc::clone(&context), Arc::clone(&context), Arc::clone(&context));
    let (redriven, waiting) = (Arc::clone(&expander), Arc::clone(&context));
    Supervisor::new(Arc::clone(&context.entropy))
        .loop_("expand notifications", move |shutdown| {
            let handler: Arc<dyn Handler> = Arc::<expander::Expander>::clone(&expander);
            notifications.consume("expand notifications", handler, expanding.clone()).run(shutdown)
        })
        .loop_("send mails", move |shutdown| Arc::clone(&sender).run(shutdown))
        .loop_("count what waits", move |shutdown| backlog::run(Arc::clone(&waiting), shutdown))
        .loop_("drain mail-dead", move |shutdown| dead.drain(draining.clone()).run(shutdown))
        .loop_("redrive notifications", move |shutdown| {
            let handler: Arc<dyn Handler> = Arc::<expander::Expander>::clone(&redriven);
            letters
                .redrive("redrive notifications", DeadLetterSource::Mail, handler, redriving.clone())
                .run(shutdown)
        })
        .loop_("redrive deliveries", move |shutdown| {
            let handler: Arc<dyn Handler> = Arc::<letters::Revive>::clone(&revive);
            failed
                .redrive("redrive deliveries", DeadLetterSource::Deliveries, handler, reviving.clone())
                .run(shutdown)
        })
        .run(shutdown)
        .await
}

/// What the loops work with.
struct Parts {
    expander: Arc<expander::Expander>,
    sender: Arc<sender::Sender>,
    revive: Arc<letters::Revive>,
}

impl Parts {
    fn new(context: &Context) -> Result<Self> {
        let settings = &context.settings;
        let mails = Arc::new(message::Mails::new(settings, context.secret.clone())?);
        let outbox = Arc::new(outbox::Outbox::new(settings.concurrency as usize));
        let outage = Arc::new(outage::Outage::new());
        let subjects = Arc::new(subjects::Subjects::new(Arc::clone(&context.catalog)));
        let metrics = Arc::new(metrics::Metrics::new(&context.telemetry.meter));
        let owner = format!("mailer {}", id::new_v7(&*context.clock, &*context.entropy));
        let expander = Arc::new(expander::Expander {
            deliveries: Arc::clone(&context.deliveries),
            items: Arc::clone(&context.items),
            subscriptions: Arc::clone(&context.subscriptions),
            subjects: Arc::clone(&subjects),
            clock: Arc::clone(&context.clock),
            entropy: Arc::clone(&context.entropy),
            mails: Arc::clone(&mails),
            outbox: Arc::clone(&outbox),
            settings: settings.clone(),
            owner: owner.clone(),
            telemetry: context.telemetry.clone(),
            metrics: Arc::clone(&metrics),
        });
        let claimer = Arc::new(claimer::Claimer {
            deliveries: Arc::clone(&context.deliveries),
            items: Arc::clone(&context.items),
            subscriptions: Arc::clone(&context.subscriptions),
            subjects,
            clock: Arc::clone(&context.clock),
            entropy: Arc::clone(&context.entropy),
            mails: Arc::clone(&mails),
            outbox: Arc::clone(&outbox),
            outage: Arc::clone(&outage),
            settings: settings.clone(),
            owner,
            part: context.health.part("claim deliveries"),
        });
        let sender = Arc::new(sender::Sender {
            mail: Arc::clone(&context.mail),
            deliveries: Arc::clone(&context.deliveries),
            clock: Arc::clone(&context.clock),
            entropy: Arc::clone(&context.entropy),
            mails,
            outbox: Arc::clone(&outbox),
            claimer,
            outage,
            settings: settings.clone(),
            telemetry: context.telemetry.clone(),
            metrics,
            part: context.health.part("send mails"),
        });
        let revive = Arc::new(letters::Revive {
            deliveries: Arc::clone(&context.deliveries),
            clock: Arc::clone(&context.clock),
            outbox,
        });
        Ok(Self { expander, sender, revive })
    }
}

impl Context {
    fn consume(&self, name: &'static str, handler: Arc<dyn Handler>, part: Part) -> ConsumeLoop {
        ConsumeLoop {
            name,
            bus: Arc::clone(&self.bus),
            queue: Queue::Mail,
            source: DeadLetterSource::Mail,
            handler,
            dead_letters: Arc::clone(&self.dead_letters),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            settings: self.settings.consume(),
            part,
            telemetry: self.telemetry.clone(),
        }
    }

    fn drain(&self, part: Part) -> SafetyNetLoop {
        SafetyNetLoop {
            name: "drain mail-dead",
            bus: Arc::clone(&self.bus),
            queue: Queue::MailDead,
            source: DeadLetterSource::Mail,
            dead_letters: Arc::clone(&self.dead_letters),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            settings: self.settings.consume(),
            part,
            telemetry: self.telemetry.clone(),
        }
    }

    fn redrive(
        &self,
        name: &'static str,
        source: DeadLetterSource,
        handler: Arc<dyn Handler>,
        part: Part,
    ) -> RedriveLoop {
        RedriveLoop {
            name,
            source,
            handler,
            dead_letters: Arc::clone(&self.dead_letters),
            clock: Arc::clone(&self.clock),
            entropy: Arc::clone(&self.entropy),
            settings: RedriveSettings::default(),
            part,
            telemetry: self.telemetry.clone(),
        }
    }
}

/// What a failure of the store means for a notification. All that is written for one may be written again, so that a
/// lost answer is an outage like any other and no failed attempt.
fn verdict_of(error: &Error) -> Verdict {
    let detail = error.chain();
    if error.is_outage() || error.kind == ErrorKind::Unknown {
        Verdict::Unavailable { detail }
    } else {
        Verdict::Retry { detail }
    }
}
