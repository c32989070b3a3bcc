//! Spans and metrics: OpenTelemetry's API, by its messaging conventions. Without a provider all of it is a no-op.
//!
//! Trace context travels in message metadata as a [`TraceContext`], never in the payload.

mod messaging;

use std::sync::Arc;

use opentelemetry::{
    Context, KeyValue,
    global::BoxedTracer,
    metrics::{Meter, MeterProvider as _, noop::NoopMeterProvider},
    trace::{
        Link, Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _, noop::NoopTracer,
    },
};
use tidings_domain::trace_context::TraceContext;

use crate::conventions;

/// One service's tracer and meter. Clones are the same.
#[derive(Clone)]
pub struct Telemetry {
    tracer: Arc<BoxedTracer>,
    recording: bool,
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

    /// Whether spans go anywhere. Where not, callers skip the making of names, links and attributes.
    pub fn is_recording(&self) -> bool {
        self.recording
    }

    /// Begins a span named `name`. `parent` is its parent; each of `links` is linked (a parent is linked as well only
    /// when it is among them).
    pub fn span(
        &self,
        name: impl Into<String>,
        kind: SpanKind,
        parent: &TraceContext,
        links: &[TraceContext],
        attributes: Vec<KeyValue>,
    ) -> Span {
        if !self.recording {
            return Span::none(parent.clone());
        }
        let links = links.iter().filter_map(span_context).map(Link::with_context).collect();
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
    pub fn fail(&mut self, error_type: &'static str, description: impl Into<String>) {
        if let Some(span) = &mut self.span {
            span.set_attribute(KeyValue::new(conventions::ERROR_TYPE, error_type));
            span.set_status(Status::error(description.into()));
        }
    }
}

/// The span context that `trace` names.
fn span_context(trace: &TraceContext) -> Option<SpanContext> {
    let text = trace.traceparent.as_deref()?;
    let mut parts = text.split('-').skip(1);
    let trace_id = TraceId::from_hex(parts.next()?).ok()?;
    let span_id = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let state =
        trace.tracestate.as_deref().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    Some(SpanContext::new(trace_id, span_id, TraceFlags::new(flags), true, state))
}

/// The text form of a span context.
fn trace_context(span: &SpanContext) -> TraceContext {
    if !span.is_valid() {
        return TraceContext::default();
    }
    let traceparent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    let tracestate = span.trace_state().header();
    TraceContext::parse(Some(&traceparent), Some(&tracestate))
}
