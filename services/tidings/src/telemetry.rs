//! Logs, traces and metrics of the process: set up first, flushed last.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use opentelemetry::{
    global::BoxedTracer,
    metrics::{Meter, MeterProvider as _},
    trace::TracerProvider as _,
};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    metrics::SdkMeterProvider,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use tidings_runtime::telemetry::Telemetry;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    profile::Role,
    settings::{LogFormat, Settings, faults::Faults},
};

/// How long flushing may take at the end; a dead collector costs this and its spans, nothing else.
const FLUSH: Duration = Duration::from_secs(2);

/// Spans that wait to be exported; more are dropped, never waited for.
const QUEUED_SPANS: usize = 8192;

/// Libraries that log every end of a connection as an error, also one that was asked for. The adapter says what there is to
/// say; whoever names one in the setting `log` gets its lines.
const LIBRARIES_OF_ADAPTERS: [&str; 1] = ["lapin"];

/// OpenTelemetry's own variables that decide whether spans go anywhere.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];

/// What OpenTelemetry's own variables say; the rest of them its library reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Export {
    /// Where spans go; none: nowhere.
    pub(crate) endpoint: Option<String>,
}

impl Export {
    /// Reads the environment. What this build cannot do is a fault.
    pub(crate) fn read(variables: &BTreeMap<String, String>, faults: &mut Faults) -> Self {
        let set = |name: &str| variables.get(name).map(String::as_str).filter(|value| !value.is_empty());
        let disabled = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
            || set("OTEL_TRACES_EXPORTER") == Some("none");
        let Some((name, endpoint)) = ENDPOINTS.iter().find_map(|name| Some((*name, set(name)?))) else {
            return Self::default();
        };
        if disabled {
            return Self::default();
        }
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            faults.add(name, format!("{endpoint:?} is no address such as http://127.0.0.1:4318"));
        }
        for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            if let Some(protocol) = set(name).filter(|protocol| *protocol != "http/protobuf") {
                faults.add(
                    name,
                    format!("this build does not speak {protocol:?}: unset it, or set http/protobuf"),
                );
            }
        }
        Self { endpoint: Some(endpoint.to_owned()) }
    }
}

/// What is set up for the life of the process; dropped, it flushes.
pub(crate) struct Guard {
    meters: SdkMeterProvider,
    registry: prometheus::Registry,
    export: Export,
    tracers: Mutex<BTreeMap<&'static str, SdkTracerProvider>>,
}

impl Guard {
    /// The tracer and meter of one service, named in its spans. Made before the runtime starts, since the exporter
    /// has a thread and a client of its own.
    pub(crate) fn service(&self, role: Role, settings: &Settings) -> anyhow::Result<Telemetry> {
        let name = role.service_name();
        let meter = self.meters.meter(name);
        let named =
            |telemetry: Telemetry| telemetry.named(&settings.namespace, settings.profile.messaging_system());
        if self.export.endpoint.is_none() {
            return Ok(named(Telemetry::without_spans(meter)));
        }
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .build()
            .with_context(|| format!("spans of {name} cannot be exported"))?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUED_SPANS)
            .with_scheduled_delay(Duration::from_secs(1))
            .build();
        // The sampler is what OTEL_TRACES_SAMPLER says, parentbased_always_on where it says nothing.
        let provider = SdkTracerProvider::builder()
            .with_resource(Resource::builder().with_service_name(name).build())
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(batches).build())
            .build();
        let tracer = provider.tracer("tidings");
        self.tracers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(name, provider);
        Ok(named(Telemetry::new(BoxedTracer::new(Box::new(tracer)), meter)))
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
        self.export.endpoint.as_deref()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let tracers =
            std::mem::take(&mut *self.tracers.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        // Side by side, so that a collector that hangs is waited for once.
        std::thread::scope(|scope| {
            for (service, provider) in &tracers {
                scope.spawn(move || {
                    if let Err(error) = provider.shutdown_with_timeout(FLUSH) {
                        tracing::warn!(service, error = %error, "the last spans could not be exported");
                    }
                });
            }
        });
        if let Err(error) = self.meters.shutdown() {
            tracing::debug!(error = %error, "metrics ended with an error");
        }
    }
}

/// Sets up logs and metrics, and traces for when a service asks.
pub(crate) fn init(settings: &Settings, export: Export) -> anyhow::Result<Arc<Guard>> {
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
        subscriber.with(lines.json().flatten_event(true).with_current_span(false)).try_init()
    }
    .context("logs cannot be set up")?;

    let registry = prometheus::Registry::new();
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .context("metrics cannot be set up")?;
    let resource = Resource::builder().with_service_name("tidings").build();
    let meters = SdkMeterProvider::builder().with_reader(reader).with_resource(resource).build();
    Ok(Arc::new(Guard { meters, registry, export, tracers: Mutex::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Export, Faults) {
        let mut faults = Faults::default();
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        (Export::read(&variables, &mut faults), faults)
    }

    #[test]
    fn spans_go_where_the_standard_variables_say() {
        assert_eq!(read(&[]).0.endpoint, None);
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert_eq!(read(&[endpoint]).0.endpoint.as_deref(), Some("http://127.0.0.1:4318"));
        assert_eq!(read(&[endpoint, ("OTEL_SDK_DISABLED", "true")]).0.endpoint, None);
        let (_, faults) = read(&[endpoint, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]);
        assert!(faults.to_string().contains("http/protobuf"));
        let (_, faults) = read(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317")]);
        assert!(faults.to_string().contains("no address"));
    }
}
