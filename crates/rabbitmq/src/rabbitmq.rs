//! Both connections, and what hangs on them.

use std::{sync::Arc, time::Duration};

use tidings_domain::{
    Result,
    ports::{Bus, Dependency, Topology},
};
use tokio::{sync::Notify, time::timeout};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    bus::RabbitBus,
    dependency::RabbitDependency,
    depth::Depth,
    dial::Dialer,
    keeper::Keeper,
    link::Link,
    management::Management,
    metrics::Metrics,
    names::Names,
    options::Options,
    publisher::{Parts, Publisher},
    standing::Standing,
    topology::RabbitTopology,
    usage::Usage,
};

/// Ending the tasks: both connections are closed within two seconds.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// One broker. Its ports may outlive it; they answer *unavailable* once it is closed.
pub struct RabbitMq {
    bus: Arc<RabbitBus>,
    topology: Arc<RabbitTopology>,
    dependency: Arc<RabbitDependency>,
    publisher: Arc<Publisher>,
    /// Ends what takes publishes.
    closing: CancellationToken,
    /// Ends the connections.
    stop: CancellationToken,
    tracker: TaskTracker,
    _stopped_when_dropped: [DropGuard; 2],
}

impl RabbitMq {
    /// Reads the options. Connects in the background, again for as long as it lives: the broker may be down. Needs a tokio
    /// runtime.
    ///
    /// *Misconfigured*: the URL or a file that it names cannot be read; the context never holds the password.
    pub fn new(options: Options) -> Result<Self> {
        let dialer = Arc::new(Dialer::new(&options.url, options.ca_file.as_deref(), &options.name)?);
        let management = match &options.management_url {
            Some(url) => Some(Management::new(url, options.ca_file.as_deref(), dialer.vhost())?),
            None => None,
        };
        let names = Arc::new(Names::new(&options.namespace));
        let metrics = Metrics::new(&options.meter);
        let (standing, usage) = (Arc::new(Standing::default()), Arc::new(Usage::default()));
        let answers = Arc::new(Notify::new());
        let link = |role, hurries| {
            Link::new(
                role,
                Arc::clone(&dialer),
                Arc::clone(&options.entropy),
                metrics.clone(),
                Arc::clone(&answers),
                hurries,
            )
        };
        // Topology goes over the connection that never publishes: an alarm holds up the other.
        let (publishing, consuming) = (link("publish", false), link("consume", true));
        // A message that ends every connection over which it comes stays in its safety net, and ends no other consumer there.
        let nets = link("safety nets", false);
        let tracker = TaskTracker::new();
        let (closing, stop) = (CancellationToken::new(), CancellationToken::new());
        for link in [&publishing, &consuming, &nets] {
            tracker.spawn(Arc::clone(link).run(stop.clone()));
        }
        consuming.want();
        let topology = Arc::new(RabbitTopology::new(
            (Arc::clone(&consuming), Arc::clone(&publishing)),
            Arc::clone(&standing),
            Arc::clone(&names),
            management,
            options.declares,
            (metrics.clone(), Arc::clone(&usage)),
        ));
        let parts = Parts {
            link: Arc::clone(&publishing),
            standing,
            usage: Arc::clone(&usage),
            metrics: metrics.clone(),
            names: Arc::clone(&names),
            tracker: tracker.clone(),
            stop: stop.clone(),
            closing: closing.clone(),
        };
        let publisher = Publisher::new(parts, options.confirm_timeout, options.unconfirmed);
        let depth =
            Depth { topology: Arc::clone(&topology), usage: Arc::clone(&usage), metrics: metrics.clone() };
        tracker.spawn(stop.clone().run_until_cancelled_owned(depth.run()));
        if options.declares {
            let keeper = Keeper::new(Arc::clone(&topology), Arc::clone(&usage));
            tracker.spawn(stop.clone().run_until_cancelled_owned(keeper.run()));
        }
        let bus = Arc::new(RabbitBus {
            publisher: Arc::clone(&publisher),
            consuming: Arc::clone(&consuming),
            nets: Arc::clone(&nets),
            topology: Arc::clone(&topology),
            names,
            metrics,
            usage,
        });
        let dependency =
            Arc::new(RabbitDependency { publishing, consuming, nets, topology: Arc::clone(&topology) });
        let guards = [closing.clone().drop_guard(), stop.clone().drop_guard()];
        Ok(Self {
            bus,
            topology,
            dependency,
            publisher,
            closing,
            stop,
            tracker,
            _stopped_when_dropped: guards,
        })
    }

    /// Publishing and consuming.
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::<RabbitBus>::clone(&self.bus)
    }

    /// Exchanges, queues and bindings.
    pub fn topology(&self) -> Arc<dyn Topology> {
        Arc::<RabbitTopology>::clone(&self.topology)
    }

    /// `rabbitmq`: connected, blocked by an alarm, or away and why.
    pub fn dependency(&self) -> Arc<dyn Dependency> {
        Arc::<RabbitDependency>::clone(&self.dependency)
    }

    /// Waits for confirms under way, as long as they may take, and closes both connections. To be called before the runtime
    /// ends.
    pub async fn close(&self) {
        self.closing.cancel();
        self.publisher.flushed().await;
        self.stop.cancel();
        self.tracker.close();
        if timeout(END_TIMEOUT, self.tracker.wait()).await.is_err() {
            tracing::warn!("connections to the broker could not be closed in time");
        }
    }
}
