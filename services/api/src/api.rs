//! The api as a value: what it is made of, its router, and its work in the background.

use std::sync::Arc;

use opentelemetry::metrics::Histogram;
use tidings_domain::{
    Result,
    ports::{
        Bus, Catalog, Clock, DeadLetters, Deliveries, Entropy, Items, Limits, Mailbox, Subscriptions,
        Topology,
    },
    token::Secret,
};
use tidings_runtime::{
    health::{Health, Part},
    metrics::{self, PublishDuration},
    shutdown::Shutdown,
    supervise::Supervisor,
    telemetry::Telemetry,
};

use crate::{
    auth::Gate, catalog_copy::CatalogCopy, limits::Permits, origin::OwnHosts, settings::Settings,
    topology::TopologyKeeper, waiting::Waiting,
};

/// What the api may touch.
pub struct Context {
    /// To publish.
    pub bus: Arc<dyn Bus>,
    /// To declare topics.
    pub topology: Arc<dyn Topology>,
    /// To show messages.
    pub items: Arc<dyn Items>,
    /// Topics and keys.
    pub catalog: Arc<dyn Catalog>,
    /// Who is subscribed.
    pub subscriptions: Arc<dyn Subscriptions>,
    /// What was mailed.
    pub deliveries: Arc<dyn Deliveries>,
    /// What cannot go on.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// Rates, fingerprints, and what was just accepted.
    pub limits: Arc<dyn Limits>,
    /// The built-in mail catcher; none where mails go to SMTP.
    pub mailbox: Option<Arc<dyn Mailbox>>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub entropy: Arc<dyn Entropy>,
    /// What readiness is told.
    pub health: Health,
    /// Spans and metrics.
    pub telemetry: Telemetry,
    /// What tokens of links are signed with.
    pub secret: Secret,
    /// The settings.
    pub settings: Settings,
}

/// The api. Clones are the same.
#[derive(Clone)]
pub struct Api(Shared);

/// What all clones, and with them all handlers, share.
pub(crate) type Shared = Arc<Inner>;

/// What the api is made of.
pub(crate) struct Inner {
    pub(crate) context: Context,
    pub(crate) copy: CatalogCopy,
    pub(crate) gate: Gate,
    pub(crate) hosts: OwnHosts,
    pub(crate) keeper: TopologyKeeper,
    pub(crate) permits: Permits,
    pub(crate) waiting: Waiting,
    pub(crate) request_duration: Histogram<f64>,
    pub(crate) publish_duration: PublishDuration,
    catalog_part: Part,
    topology_part: Part,
}

impl Api {
    /// The api over `context`. Nothing runs yet; it is not ready until [`run`] has read the catalog.
    pub fn new(context: Context) -> Self {
        let settings = &context.settings;
        Self(Arc::new(Inner {
            copy: CatalogCopy::new(Arc::clone(&context.catalog), settings.catalog_max_age()),
            gate: Gate::new(settings.auth, settings.admin_key.as_ref()),
            hosts: OwnHosts::new(&settings.public_url, &settings.allowed_hosts),
            keeper: TopologyKeeper::new(Arc::clone(&context.topology), &context.telemetry.meter),
            permits: Permits::new(settings),
            waiting: Waiting::new(Arc::clone(&context.deliveries)),
            request_duration: metrics::seconds(
                &context.telemetry.meter,
                metrics::REQUEST_DURATION,
                "Seconds that a request took",
            ),
            publish_duration: PublishDuration::new(&context.telemetry),
            catalog_part: context.health.part("catalog"),
            topology_part: context.health.part("topology"),
            context,
        }))
    }

    /// The whole HTTP surface as a service; sockets are the caller's.
    pub fn router(&self) -> axum::Router {
        crate::routes::router(&self.0)
    }
}

/// The work in the background until shutdown: the copy of the catalog, the topology, and all requests that wait. Ends
/// with an error only when one of these keeps dying.
pub async fn run(api: Api, shutdown: Shutdown) -> Result<()> {
    let api = api.0;
    let (catalog, topology, waiting) = (Arc::clone(&api), Arc::clone(&api), Arc::clone(&api));
    Supervisor::new(Arc::clone(&api.context.entropy))
        .loop_("api: copy of the catalog", move |shutdown| {
            let api = Arc::clone(&catalog);
            async move {
                let every = api.context.settings.catalog_refresh();
                api.copy.keep(every, &api.catalog_part, &shutdown).await;
                Ok(())
            }
        })
        .loop_("api: topology", move |shutdown| {
            let api = Arc::clone(&topology);
            async move {
                let every = api.context.settings.topology_check();
                let clock = &*api.context.clock;
                api.keeper.keep(&api.copy, clock, every, &api.topology_part, &shutdown).await;
                Ok(())
            }
        })
        .loop_("api: waiting requests", move |shutdown| {
            let api = Arc::clone(&waiting);
            async move {
                api.waiting.answer(&shutdown).await;
                Ok(())
            }
        })
        .run(shutdown)
        .await
}
