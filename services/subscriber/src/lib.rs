//! The subscriber: takes messages from the queue `items` and stores each once; what cannot be stored is a dead letter.
//!
//! It knows ports only. [`run`] owns everything that it starts: dropping its future is a crash and leaves nothing behind.

mod handler;
mod retention;
mod settings;

use std::sync::Arc;

use tidings_domain::{
    Result,
    dead_letter::DeadLetterSource,
    ports::{Bus, Clock, DeadLetters, Entropy, Items, Queue},
};
use tidings_runtime::{
    consume::ConsumeLoop,
    health::Health,
    redrive::{RedriveLoop, RedriveSettings},
    safety_net::SafetyNetLoop,
    shutdown::Shutdown,
    supervise::Supervisor,
    telemetry::Telemetry,
};

use handler::Store;
use retention::Retention;
pub use settings::Settings;

/// What the subscriber may touch.
#[derive(Clone)]
pub struct Context {
    /// Its queues.
    pub bus: Arc<dyn Bus>,
    /// Where messages are stored.
    pub items: Arc<dyn Items>,
    /// Where that goes which cannot be stored.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Jitter, ids, lease tokens.
    pub entropy: Arc<dyn Entropy>,
    /// Where its parts say how they are doing.
    pub health: Health,
    /// Spans and metrics.
    pub telemetry: Telemetry,
    /// Limits and waits.
    pub settings: Settings,
}

/// Runs the subscriber until `shutdown`: Ok after that. An error is that of a loop that kept dying.
pub async fn run(context: Context, shutdown: Shutdown) -> Result<()> {
    let handler = Arc::new(Store::new(&context));
    Supervisor::new(Arc::clone(&context.entropy))
        .loop_("subscriber: items", {
            let (context, handler) = (context.clone(), Arc::clone(&handler));
            move |shutdown| items(&context, &handler).run(shutdown)
        })
        .loop_("subscriber: redrive", {
            let (context, handler) = (context.clone(), handler);
            move |shutdown| redrive(&context, &handler).run(shutdown)
        })
        .loop_("subscriber: safety net", {
            let context = context.clone();
            move |shutdown| safety_net(&context).run(shutdown)
        })
        .loop_("subscriber: retention", move |shutdown| Retention::new(&context).run(shutdown))
        .run(shutdown)
        .await
}

fn items(context: &Context, handler: &Arc<Store>) -> ConsumeLoop {
    ConsumeLoop {
        name: "subscriber: items",
        bus: Arc::clone(&context.bus),
        queue: Queue::Items,
        source: DeadLetterSource::Items,
        handler: Arc::<Store>::clone(handler),
        dead_letters: Arc::clone(&context.dead_letters),
        clock: Arc::clone(&context.clock),
        entropy: Arc::clone(&context.entropy),
        settings: context.settings.consume(),
        part: context.health.part("subscriber: items"),
        telemetry: context.telemetry.clone(),
    }
}

fn redrive(context: &Context, handler: &Arc<Store>) -> RedriveLoop {
    RedriveLoop {
        name: "subscriber: redrive",
        source: DeadLetterSource::Items,
        handler: Arc::<Store>::clone(handler),
        dead_letters: Arc::clone(&context.dead_letters),
        clock: Arc::clone(&context.clock),
        entropy: Arc::clone(&context.entropy),
        settings: RedriveSettings::default(),
        part: context.health.part("subscriber: redrive"),
        telemetry: context.telemetry.clone(),
    }
}

fn safety_net(context: &Context) -> SafetyNetLoop {
    SafetyNetLoop {
        name: "subscriber: safety net",
        bus: Arc::clone(&context.bus),
        queue: Queue::ItemsDead,
        source: DeadLetterSource::Items,
        dead_letters: Arc::clone(&context.dead_letters),
        clock: Arc::clone(&context.clock),
        entropy: Arc::clone(&context.entropy),
        settings: context.settings.safety_net(),
        part: context.health.part("subscriber: safety net"),
        telemetry: context.telemetry.clone(),
    }
}
