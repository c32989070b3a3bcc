//! The cdc-watcher: reads new items from the table stream, publishes each as a notification, and moves the stream's
//! position only after the bus has confirmed. It never skips: a gap stops it with a named state.
//!
//! It knows ports only. [`run`] owns everything that it starts: dropping its future is a crash and leaves nothing behind.

mod backlog;
mod flow;
mod frontier;
mod letter;
mod publish;
mod redrive;
pub mod replay;
mod session;
mod settings;
mod watch;

use std::sync::Arc;

use tidings_domain::{
    Result,
    dead_letter::DeadLetterSource,
    ports::{Bus, Changes, Clock, DeadLetters, Entropy},
};
use tidings_runtime::{
    health::Health,
    redrive::{RedriveLoop, RedriveSettings},
    shutdown::Shutdown,
    supervise::Supervisor,
    telemetry::Telemetry,
};

pub use settings::Settings;

/// What the cdc-watcher may touch.
#[derive(Clone)]
pub struct Context {
    /// The table stream.
    pub changes: Arc<dyn Changes>,
    /// Where notifications go.
    pub bus: Arc<dyn Bus>,
    /// Where that goes which cannot be published.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Jitter and lease tokens.
    pub entropy: Arc<dyn Entropy>,
    /// Where its parts say how they are doing.
    pub health: Health,
    /// Spans and metrics.
    pub telemetry: Telemetry,
    /// Limits and waits.
    pub settings: Settings,
}

/// Runs the cdc-watcher until `shutdown`: Ok after that. An error is that of a loop that kept dying. A gap ends nothing:
/// the process stays, is not ready, and publishes nothing until a person has run `tidings recover`.
pub async fn run(context: Context, shutdown: Shutdown) -> Result<()> {
    Supervisor::new(Arc::clone(&context.entropy))
        .loop_("cdc-watcher: changes", {
            let context = context.clone();
            move |shutdown| watch::run(context.clone(), shutdown)
        })
        .loop_("cdc-watcher: redrive", {
            let context = context.clone();
            move |shutdown| redrive(&context).run(shutdown)
        })
        .loop_("cdc-watcher: backlog", move |shutdown| backlog::run(context.clone(), shutdown))
        .run(shutdown)
        .await
}

fn redrive(context: &Context) -> RedriveLoop {
    RedriveLoop {
        name: "cdc-watcher: redrive",
        source: DeadLetterSource::Changes,
        handler: Arc::new(redrive::Republish::new(Arc::clone(&context.bus), Arc::clone(&context.clock))),
        dead_letters: Arc::clone(&context.dead_letters),
        clock: Arc::clone(&context.clock),
        entropy: Arc::clone(&context.entropy),
        settings: RedriveSettings::default(),
        part: context.health.part("cdc-watcher: redrive"),
        telemetry: context.telemetry.clone(),
    }
}
