//! Spans and metrics: OpenTelemetry's API, by its messaging conventions. Without a provider all of it is a no-op.
//!
//! Trace context travels in message metadata as a [`TraceContext`], never in the payload.

mod context;
mod messaging;

use std::sync::Arc;

use opentelemetry::{
    Context, KeyValue,
    global::BoxedTracer,
    metrics::{Meter, MeterProvider as _, noop::NoopMeterProvider},
    trace::{Link, Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, noop::NoopTracer},
};
use tidings_domain::trace_context::TraceContext;

use crate::conventions;
pub use context::{enter, within};
use context::{is_sampled, is_wanted, passed_on, span_context, trace_context};

/// One service's tracer and meter. Clones are the same.
#[derive(Clone)]
pub struct Telemetry {
    tracer: Arc<BoxedTracer>,
    recording: bool,
    /// Whether what began a trace decides on recording all of it.
    keeps_decisions: bool,
    namespace: Arc<str>,
    system: Arc<str>,
    /// The service's meter.
    pub meter: Meter,
}

impl Telemetry {
    /// With the providers of the composition root.
    pub fn new(tracer: BoxedTracer, meter: Meter) -> Self {
        Self {
            tracer: Arc::new(tracer),
            recording: true,
            keeps_decisions: true,
            namespace: "tidings".into(),
            system: "tidings".into(),
            meter,
        }
    }

    /// That of a process without telemetry.
    pub fn none() -> Self {
        Self::without_spans(NoopMeterProvider::new().meter("tidings"))
    }

    /// Metrics only: no span is begun, and nothing is spent on what it would say.
    pub fn without_spans(meter: Meter) -> Self {
        Self { recording: false, ..Self::new(BoxedTracer::new(Box::new(NoopTracer::new())), meter) }
    }

    /// The same with the namespace and the bus (`sqlite`, `rabbitmq`, `aws_sns`) that spans name.
    #[must_use]
    pub fn named(mut self, namespace: &str, messaging_system: &str) -> Self {
        self.namespace = namespace.into();
        self.system = messaging_system.into();
        self
    }

    /// The same where each span is sampled by itself, whatever was decided for what caused it.
    #[must_use]
    pub fn deciding_anew(mut self) -> Self {
        self.keeps_decisions = false;
        self
    }

    /// The bus, as the conventions name it.
    pub(crate) fn system(&self) -> &Arc<str> {
        &self.system
    }

    /// Whether spans go anywhere. Where not, callers skip the making of names, links and attributes.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Whether a span of these causes would be recorded, so that its name and attributes are worth making.
    fn wants(&self, parent: &TraceContext, links: &[TraceContext]) -> bool {
        self.recording && (!self.keeps_decisions || is_wanted(parent, links))
    }

    /// Begins a span named `name`. `parent` is its parent; each of `links` is linked (a parent is linked as well only
    /// when it is among them). Where whoever began the trace decided against recording it there is none, and what came is
    /// passed on.
    pub fn span(
        &self,
        name: impl Into<String>,
        kind: SpanKind,
        parent: &TraceContext,
        links: &[TraceContext],
        attributes: Vec<KeyValue>,
    ) -> Span {
        if !self.wants(parent, links) {
            return Span::none(passed_on(parent, links));
        }
        let recorded = |link: &&TraceContext| !self.keeps_decisions || is_sampled(link) == Some(true);
        let links = links.iter().filter(recorded).filter_map(span_context).map(Link::with_context).collect();
        let builder = self
            .tracer
            .span_builder(name.into())
            .with_kind(kind)
            .with_links(links)
            .with_attributes(attributes);
        let context = match span_context(parent) {
            Some(parent) => Context::new().with_remote_span_context(parent),
            None => Context::new(),
        };
        let span = self.tracer.build_with_context(builder, &context);
        let own = trace_context(span.span_context());
        // Without a provider there is no span of ours: what came is passed on.
        let trace = if own.traceparent.is_some() { own } else { parent.clone() };
        Span { span: Some(span), trace }
    }
}

/// A span under way; it ends when it is dropped.
pub struct Span {
    span: Option<opentelemetry::global::BoxedSpan>,
    trace: TraceContext,
}

impl Span {
    /// No span: what came is passed on.
    pub fn none(trace: TraceContext) -> Self {
        Self { span: None, trace }
    }

    /// The context to carry to what this span causes.
    pub fn trace(&self) -> &TraceContext {
        &self.trace
    }

    /// Adds an attribute.
    pub fn set(&mut self, attribute: KeyValue) {
        if let Some(span) = &mut self.span {
            span.set_attribute(attribute);
        }
    }

    /// Adds an attribute that counts.
    pub fn set_count(&mut self, name: &'static str, count: usize) {
        self.set(KeyValue::new(name, i64::try_from(count).unwrap_or(i64::MAX)));
    }

    /// Adds an event, such as a retry or a dead letter.
    pub fn event(&mut self, name: &'static str, attributes: Vec<KeyValue>) {
        if let Some(span) = &mut self.span {
            span.add_event(name, attributes);
        }
    }

    /// Marks it failed with what the conventions call `error.type`.
    pub fn fail(
        &mut self,
        error_type: impl Into<opentelemetry::StringValue>,
        description: impl Into<String>,
    ) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(conventions::ERROR_TYPE, error_type.into()));
            span.set_status(Status::error(description.into()));
        }
    }
}
