//! `selfhosted`: RabbitMQ, Postgres and, where it is set, Redis.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::Context as _;
use opentelemetry::metrics::Meter;
use tidings_domain::ports::{Clock, Dependency, Entropy, Limits, Mail};
use tidings_memory::limits::InProcessLimits;
use tidings_postgres::{Store, StreamOptions};
use tidings_rabbitmq::RabbitMq;
use tidings_redis::RedisLimits;

use super::{Parts, Role, Stack};
use crate::settings::{
    Selfhosted, Settings,
    selfhosted::{Redis, Stream},
};

/// The servers that every process of this profile speaks to. Nothing is connected by making this.
pub(crate) struct Servers {
    /// Records and the table stream.
    pub(crate) store: Store,
    /// Topics and queues.
    pub(crate) rabbitmq: RabbitMq,
}

impl Servers {
    /// Reads the settings. `name` is what the servers show of our connections.
    pub(crate) fn new(
        settings: &Settings,
        name: &str,
        meter: &Meter,
        clock: &Arc<dyn Clock>,
        entropy: &Arc<dyn Entropy>,
    ) -> anyhow::Result<Self> {
        let servers = of(settings)?;
        let store = Store::new(tidings_postgres::Options {
            url: servers.database.url.expose().to_owned(),
            ca_file: servers.database.ca_file.clone(),
            namespace: settings.namespace.clone(),
            application_name: name.to_owned(),
            max_connections: servers.database.max_connections,
            statement_timeout: servers.database.statement_timeout,
            stream: stream(&servers.stream),
            clock: Arc::clone(clock),
            entropy: Arc::clone(entropy),
            meter: meter.clone(),
        })
        .context("DATABASE_URL cannot be used")?;
        let rabbitmq = RabbitMq::new(tidings_rabbitmq::Options {
            url: servers.amqp.url.expose().to_owned(),
            ca_file: servers.amqp.ca_file.clone(),
            management_url: servers.amqp.management_url.as_ref().map(|url| url.expose().to_owned()),
            namespace: settings.namespace.clone(),
            name: name.to_owned(),
            declares: servers.amqp.declares,
            confirm_timeout: servers.amqp.confirm_timeout,
            unconfirmed: servers.amqp.unconfirmed,
            entropy: Arc::clone(entropy),
            meter: meter.clone(),
        })
        .context("AMQP_URL cannot be used")?;
        Ok(Self { store, rabbitmq })
    }

    /// Lets go: what was published and is not confirmed yet is waited for, then all connections end.
    pub(crate) async fn close(self) {
        tokio::join!(self.rabbitmq.close(), self.store.close());
    }
}

/// What `roles` speak to. A server that is down is found out later: nothing is asked for here.
pub(super) fn open(parts: Parts<'_>, roles: &[Role]) -> anyhow::Result<Stack> {
    let Parts { settings, meter, clock, entropy } = parts;
    let name = match roles {
        [role] => role.service_name(),
        _ => "tidings",
    };
    let servers = Servers::new(settings, name, &meter, &clock, &entropy)?;
    let smtp = match &settings.smtp {
        Some(smtp) if roles.contains(&Role::Mailer) => {
            Some(Arc::new(tidings_smtp::SmtpMail::new(smtp.clone())?))
        }
        _ => None,
    };
    let redis = match &of(settings)?.redis {
        Some(redis) if roles.contains(&Role::Api) => {
            Some(limits(settings, redis, meter.clone(), &entropy).context("REDIS_URL cannot be used")?)
        }
        _ => None,
    };

    let mut health = Seen::default();
    let Servers { store, rabbitmq } = &servers;
    if let Some(note) = rabbitmq.dependency().note() {
        tracing::warn!(note, "an alarm is missing (docs/operate.md)");
    }
    for role in roles {
        match role {
            // Topics and keys are copies: without Postgres it goes on accepting, degraded (promise 3).
            Role::Api => {
                health.needs(rabbitmq.dependency());
                health.shows(store.dependency());
            }
            Role::Subscriber => {
                health.needs(rabbitmq.dependency());
                health.needs(store.dependency());
            }
            // Standing by is being ready; a gap is not.
            Role::CdcWatcher => {
                health.needs(store.stream_dependency());
                health.needs(rabbitmq.dependency());
                health.shows(store.dependency());
            }
            // What is planned is sent from the table: the loop that takes notifications says that it waits.
            Role::Mailer => {
                health.needs(store.dependency());
                health.shows(rabbitmq.dependency());
            }
        }
    }
    if let Some(redis) = &redis {
        health.shows(redis.dependency());
    }
    if let Some(smtp) = &smtp {
        health.shows(Arc::<tidings_smtp::SmtpMail>::clone(smtp));
    }
    let Seen { needed, shown } = health.once();

    Ok(Stack {
        bus: servers.rabbitmq.bus(),
        topology: servers.rabbitmq.topology(),
        items: servers.store.items(),
        changes: servers.store.changes(),
        catalog: servers.store.catalog(),
        subscriptions: servers.store.subscriptions(),
        deliveries: servers.store.deliveries(),
        dead_letters: servers.store.dead_letters(),
        limits: redis.as_ref().map_or_else(in_process, RedisLimits::limits),
        mail: smtp.map(|smtp| -> Arc<dyn Mail> { smtp }),
        mailbox: None,
        needed,
        dependencies: shown,
        closing: Box::pin(async move {
            servers.close().await;
            drop(redis);
        }),
    })
}

/// What health is told of.
#[derive(Default)]
struct Seen {
    needed: Vec<Arc<dyn Dependency>>,
    shown: Vec<Arc<dyn Dependency>>,
}

impl Seen {
    fn needs(&mut self, dependency: Arc<dyn Dependency>) {
        self.needed.push(dependency);
    }

    fn shows(&mut self, dependency: Arc<dyn Dependency>) {
        self.shown.push(dependency);
    }

    /// Each once: what one role needs is needed, whatever another thinks of it.
    fn once(mut self) -> Self {
        let mut names = BTreeSet::new();
        let mut is_new = |dependency: &Arc<dyn Dependency>| names.insert(dependency.name().to_owned());
        self.needed.retain(&mut is_new);
        self.shown.retain(&mut is_new);
        self
    }
}

fn of(settings: &Settings) -> anyhow::Result<&Selfhosted> {
    settings.selfhosted.as_ref().context("the settings of selfhosted are checked with its profile")
}

fn limits(
    settings: &Settings,
    redis: &Redis,
    meter: Meter,
    entropy: &Arc<dyn Entropy>,
) -> anyhow::Result<RedisLimits> {
    Ok(RedisLimits::new(tidings_redis::Options {
        url: redis.url.expose().to_owned(),
        ca_file: redis.ca_file.clone(),
        namespace: settings.namespace.clone(),
        timeout: redis.timeout,
        fallback: in_process(),
        entropy: Arc::clone(entropy),
        meter,
    })?)
}

fn in_process() -> Arc<dyn Limits> {
    Arc::new(InProcessLimits::default())
}

fn stream(settings: &Stream) -> StreamOptions {
    let millis = Duration::from_millis;
    StreamOptions {
        status_interval: millis(settings.status_interval_ms),
        heartbeat_interval: millis(settings.heartbeat_interval_ms),
        silence_limit: millis(settings.silence_limit_ms),
        stall_limit: millis(settings.stall_limit_ms),
        standby_poll: millis(settings.standby_poll_ms),
        read_ahead: settings.read_ahead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_default_to_what_the_adapter_does() {
        let ours = stream(&Stream::default());
        assert_eq!(format!("{ours:?}"), format!("{:?}", StreamOptions::default()));
    }
}
