//! The way of spans out of the process: which are recorded, and what becomes of those that are. Nobody waits for a
//! collector: what it does not take in time is dropped and counted, by OpenTelemetry's conventions for SDK metrics.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    metrics::{Counter, Meter},
    trace::{Link, SpanKind, TraceId, TraceState},
};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult, SdkTracerProvider,
        ShouldSample, Span, SpanData, SpanExporter, SpanProcessor,
    },
};

use super::export::{Export, Root, Sampling};

/// The most spans of one export.
const BATCH: usize = 512;

const ERROR_TYPE: &str = "error.type";

/// A provider whose spans go out through `exporter`, and the count of those that do not.
pub(super) fn provider(
    exporter: impl SpanExporter + 'static,
    export: &Export,
    resource: Resource,
    meter: &Meter,
    service: &'static str,
) -> (SdkTracerProvider, Arc<Tally>) {
    let tally = Arc::new(Tally::new(meter, service, export.waiting.most));
    let batches = BatchConfigBuilder::default()
        // What is counted as waiting is let in: the queue itself is never full.
        .with_max_queue_size(export.waiting.most + BATCH)
        .with_max_export_batch_size(BATCH)
        .with_scheduled_delay(export.waiting.delay)
        .build();
    let counted = Counted { exporter, tally: Arc::clone(&tally) };
    let inner = BatchSpanProcessor::builder(counted).with_batch_config(batches).build();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(sampler(export.sampling))
        .with_span_processor(Bounded { inner, tally: Arc::clone(&tally) })
        .build();
    (provider, tally)
}

fn sampler(sampling: Sampling) -> Sampler {
    let root = match sampling.root {
        Root::All => Sampler::AlwaysOn,
        Root::None => Sampler::AlwaysOff,
        Root::Part(part) => Sampler::TraceIdRatioBased(part),
    };
    if sampling.parent_based { Sampler::ParentBased(Box::new(Caused(root))) } else { root }
}

/// Of spans without a parent those are recorded that were caused by something recorded, which their links tell: the one
/// insert for many messages, or a later attempt. What nothing has caused is decided by the sampler.
#[derive(Clone, Debug)]
struct Caused(Sampler);

impl ShouldSample for Caused {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        if links.iter().any(|link| link.span_context.is_sampled()) {
            let (attributes, trace_state) = (Vec::new(), TraceState::default());
            return SamplingResult { decision: SamplingDecision::RecordAndSample, attributes, trace_state };
        }
        self.0.should_sample(parent, trace, name, kind, attributes, links)
    }
}

/// What became of the spans of one service.
#[derive(Debug)]
pub(super) struct Tally {
    service: &'static str,
    most: usize,
    waiting: AtomicUsize,
    lost: AtomicU64,
    /// Whether the last export failed, which is said once.
    failing: AtomicBool,
    processed: Counter<u64>,
    exported: Counter<u64>,
    queue_full: [KeyValue; 1],
    timeout: [KeyValue; 1],
    other: [KeyValue; 1],
}

impl Tally {
    fn new(meter: &Meter, service: &'static str, most: usize) -> Self {
        let counter = |name: &'static str, description: &'static str| {
            meter.u64_counter(name).with_unit("{span}").with_description(description).build()
        };
        let because = |error: &'static str| [KeyValue::new(ERROR_TYPE, error)];
        let tally = Self {
            service,
            most,
            waiting: AtomicUsize::new(0),
            lost: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            processed: counter(
                "otel.sdk.processor.span.processed",
                "spans handed to the exporter, or dropped before",
            ),
            exported: counter("otel.sdk.exporter.span.exported", "spans whose export has ended"),
            queue_full: because("queue_full"),
            timeout: because("timeout"),
            other: because("_OTHER"),
        };
        // A rate needs the 0 before the first.
        tally.processed.add(0, &[]);
        tally.processed.add(0, &tally.queue_full);
        tally.exported.add(0, &[]);
        for because in [&tally.timeout, &tally.other] {
            tally.exported.add(0, because);
        }
        tally
    }

    /// Counts one more that waits; false where it is one too many and dropped.
    fn lets_in(&self) -> bool {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.most {
            return true;
        }
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.processed.add(1, &self.queue_full);
        self.lost.fetch_add(1, Ordering::Relaxed);
        false
    }

    fn began(&self, count: usize) {
        self.waiting.fetch_sub(count, Ordering::Relaxed);
        self.processed.add(count as u64, &[]);
    }

    fn ended(&self, count: usize, result: &OTelSdkResult) {
        let spans_of = self.service;
        let Err(error) = result else {
            self.exported.add(count as u64, &[]);
            if self.failing.swap(false, Ordering::Relaxed) {
                tracing::info!(spans_of, "spans are exported again");
            }
            return;
        };
        let because = if matches!(error, OTelSdkError::Timeout(_)) { &self.timeout } else { &self.other };
        self.exported.add(count as u64, because);
        self.lost.fetch_add(count as u64, Ordering::Relaxed);
        if !self.failing.swap(true, Ordering::Relaxed) {
            let error = error.to_string();
            tracing::warn!(spans_of, error, "spans cannot be exported: they are dropped and counted");
        }
    }

    /// How many are lost, when those that wait are too.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed) as u64
    }
}

/// Lets spans in as long as there is room for them.
#[derive(Debug)]
struct Bounded {
    inner: BatchSpanProcessor,
    tally: Arc<Tally>,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.tally.lets_in() {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what its exporter does.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    tally: Arc<Tally>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.tally.began(count);
        let result = self.exporter.export(batch).await;
        self.tally.ended(count, &result);
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};

    use super::*;

    #[test]
    fn what_does_not_fit_is_dropped_and_counted_and_what_was_handed_over_makes_room() {
        let tally = Tally::new(&NoopMeterProvider::new().meter("test"), "test", 10);
        assert!((0..10).all(|_| tally.lets_in()));
        assert!(!tally.lets_in() && !tally.lets_in());
        assert_eq!(tally.lost(), 12, "and all that wait, if it ended now");
        tally.began(10);
        tally.ended(7, &Ok(()));
        tally.ended(3, &Err(OTelSdkError::Timeout(Duration::from_secs(1))));
        assert!(tally.lets_in());
        assert_eq!(tally.lost(), 3 + 2 + 1);
    }
}
