//! Logs, traces and metrics of the process: set up first, flushed last.

mod export;
mod lines;
mod pushes;
mod reach;
mod spans;

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use opentelemetry::{
    KeyValue,
    global::BoxedTracer,
    metrics::{Meter, MeterProvider as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{
    MetricExporter, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
    trace::SdkTracerProvider,
};
use tidings_domain::id::new_v7;
use tidings_runtime::telemetry::Telemetry;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub(crate) use self::export::Export;
use self::{lines::JsonLines, pushes::Told, reach::Reach, spans::Tally};
use crate::{
    chance::chance,
    profile::Role,
    settings::{LogFormat, Settings},
};

/// How long flushing may take at the end; a dead collector costs this and its spans, nothing else.
const FLUSH: Duration = Duration::from_secs(2);

/// Libraries that log every end of a connection as an error, also one that was asked for, and every export that fails. What
/// there is to say of it we say; whoever names one in the setting `log` gets its lines.
const LIBRARIES_OF_ADAPTERS: [&str; 2] = ["lapin", "opentelemetry"];

/// What is set up for the life of the process; dropped, it flushes.
pub(crate) struct Guard {
    meters: SdkMeterProvider,
    registry: prometheus::Registry,
    export: Export,
    instance: Vec<KeyValue>,
    tracers: Mutex<BTreeMap<&'static str, (SdkTracerProvider, Arc<Tally>)>>,
}

impl Guard {
    /// The tracer and meter of one service, named in its spans. Made before the runtime starts, since the exporter
    /// has a thread and a client of its own.
    pub(crate) fn service(&self, role: Role, settings: &Settings) -> anyhow::Result<Telemetry> {
        let name = role.service_name();
        let meter = self.meters.meter(name);
        let named =
            |telemetry: Telemetry| telemetry.named(&settings.namespace, settings.profile.messaging_system());
        if self.export.spans.is_none() {
            return Ok(named(Telemetry::without_spans(meter)));
        }
        let exporter = self.span_exporter().with_context(|| format!("spans of {name} cannot be exported"))?;
        let resource = resource(name, &self.instance);
        let (provider, tally) = spans::provider(exporter, &self.export, resource, &meter, name);
        let tracer = BoxedTracer::new(Box::new(provider.tracer("tidings")));
        self.tracers.lock().unwrap_or_else(PoisonError::into_inner).insert(name, (provider, tally));
        let telemetry = Telemetry::new(tracer, meter);
        Ok(named(if self.export.sampling.parent_based { telemetry } else { telemetry.deciding_anew() }))
    }

    fn span_exporter(&self) -> anyhow::Result<SpanExporter> {
        let reach = &self.export.spans_reach;
        let builder = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
        let builder = builder.with_timeout(reach.timeout);
        Ok(match reach.client()? {
            Some(client) => builder.with_http_client(client).build()?,
            None => builder.build()?,
        })
    }

    /// What the metrics of everything that is no service are made of.
    pub(crate) fn meter(&self) -> Meter {
        self.meters.meter("tidings")
    }

    /// What `/metrics` shows.
    pub(crate) fn registry(&self) -> prometheus::Registry {
        self.registry.clone()
    }

    /// Where spans go.
    pub(crate) fn endpoint(&self) -> Option<&str> {
        self.export.spans.as_deref()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let tracers = std::mem::take(&mut *self.tracers.lock().unwrap_or_else(PoisonError::into_inner));
        // Side by side, so that a collector that hangs is waited for once.
        std::thread::scope(|scope| {
            for (service, (provider, tally)) in &tracers {
                scope.spawn(move || {
                    let ended = provider.shutdown_with_timeout(FLUSH).err().map(|error| error.to_string());
                    let count = tally.lost();
                    if ended.is_some() || count > 0 {
                        tracing::warn!(
                            spans_of = service,
                            count,
                            error = ended,
                            "not all spans were exported"
                        );
                    }
                });
            }
            scope.spawn(|| {
                if let Err(error) = self.meters.shutdown_with_timeout(FLUSH) {
                    let error = error.to_string();
                    tracing::warn!(error, "the last metrics could not be pushed");
                }
            });
        });
    }
}

/// Sets up logs and metrics of a process that runs `roles`, and traces for when a service asks.
pub(crate) fn init(settings: &Settings, export: Export, roles: &[Role]) -> anyhow::Result<Arc<Guard>> {
    let service = match roles {
        [role] => role.service_name(),
        _ => "tidings",
    };
    log(settings, service)?;
    let mut instance = vec![KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))];
    if !export.names_instance {
        // Copies of a service push the same series: this tells them apart.
        let (clock, entropy) = chance();
        instance.push(KeyValue::new("service.instance.id", new_v7(&*clock, &*entropy).to_string()));
    }
    let registry = prometheus::Registry::new();
    let page = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .context("metrics cannot be set up")?;
    let mut meters =
        SdkMeterProvider::builder().with_reader(page).with_resource(resource(service, &instance));
    if let Some(every) = export.metrics {
        let exporter = metric_exporter(&export.metrics_reach).context("metrics cannot be pushed")?;
        meters =
            meters.with_reader(PeriodicReader::builder(Told::new(exporter)).with_interval(every).build());
    }
    Ok(Arc::new(Guard { meters: meters.build(), registry, export, instance, tracers: Mutex::default() }))
}

fn metric_exporter(reach: &Reach) -> anyhow::Result<MetricExporter> {
    let builder = MetricExporter::builder().with_http().with_protocol(Protocol::HttpBinary);
    let builder = builder.with_timeout(reach.timeout);
    Ok(match reach.client()? {
        Some(client) => builder.with_http_client(client).build()?,
        None => builder.build()?,
    })
}

fn log(settings: &Settings, service: &'static str) -> anyhow::Result<()> {
    let mut filter =
        settings.log.parse::<EnvFilter>().context("the setting log was checked and cannot be read")?;
    for library in LIBRARIES_OF_ADAPTERS.iter().filter(|library| !settings.log.contains(**library)) {
        filter = filter.add_directive(format!("{library}=off").parse().context("a directive of ours")?);
    }
    let human = match settings.log_format {
        LogFormat::Human => true,
        LogFormat::Json => false,
        LogFormat::Auto => std::io::stderr().is_terminal(),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let subscriber = tracing_subscriber::registry().with(filter);
    if human {
        subscriber.with(lines.with_target(false)).try_init()
    } else {
        subscriber.with(lines.event_format(JsonLines { service })).try_init()
    }
    .context("logs cannot be set up")
}

/// What tells of whom spans and metrics are.
fn resource(service: &'static str, instance: &[KeyValue]) -> Resource {
    Resource::builder().with_service_name(service).with_attributes(instance.iter().cloned()).build()
}
