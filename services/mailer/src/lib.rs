//! The mailer: two loops over the table of deliveries.
//!
//! One takes notifications, writes a delivery for each recipient in pages and acknowledges a notification when every
//! row exists. The other sends what is due: mail transaction begun, `sending` recorded, mail handed over, outcome
//! settled. What the first plans it claims in the same statement when there is room, so that a mail is on its way at
//! once.

mod settings;

use std::sync::Arc;

use tidings_domain::{
    Result,
    ports::{Bus, Catalog, Clock, DeadLetters, Deliveries, Entropy, Items, Mail, Subscriptions},
    token::Secret,
};
use tidings_runtime::{health::Health, shutdown::Shutdown, telemetry::Telemetry};

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
pub async fn run(context: Context, shutdown: Shutdown) -> Result<()> {
    drop(context);
    shutdown.requested().await;
    Ok(())
}
