//! Spans and metrics: OpenTelemetry's API, by its messaging conventions. Without a provider all of it is a no-op.
//!
//! Trace context travels in message metadata as a [`TraceContext`], never in the payload.

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

/// One service's tracer and meter. Clones are the same.
#[derive(Clone)]
pub struct Telemetry {
    tracer: Arc<BoxedTracer>,
    /// The service's meter.
    pub meter: Meter,
}

impl Telemetry {
    /// With the providers of the composition root.
    pub fn new(tracer: BoxedTracer, meter: Meter) -> Self {
        Self { tracer: Arc::new(tracer), meter }
    }

    /// That of a process without telemetry.
    pub fn none() -> Self {
        Self::new(BoxedTracer::new(Box::new(NoopTracer::new())), NoopMeterProvider::new().meter("tidings"))
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
        Span { span, trace }
    }
}

/// A span under way; it ends when it is dropped.
pub struct Span {
    span: opentelemetry::global::BoxedSpan,
    trace: TraceContext,
}

impl Span {
    /// The context to carry to what this span causes.
    pub fn trace(&self) -> &TraceContext {
        &self.trace
    }

    /// Adds an attribute.
    pub fn set(&mut self, attribute: KeyValue) {
        self.span.set_attribute(attribute);
    }

    /// Adds an event, such as a retry or a dead letter.
    pub fn event(&mut self, name: &'static str, attributes: Vec<KeyValue>) {
        self.span.add_event(name, attributes);
    }

    /// Marks it failed with what the conventions call `error.type`.
    pub fn fail(&mut self, error_type: &'static str, description: impl Into<String>) {
        self.span.set_attribute(KeyValue::new("error.type", error_type));
        self.span.set_status(Status::error(description.into()));
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
