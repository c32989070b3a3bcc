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
use tidings_domain::{
    ports::{BusTopic, Queue},
    trace_context::TraceContext,
};

use crate::conventions::{self, Operation};

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

    /// The full name of a queue.
    pub fn queue_name(&self, queue: Queue) -> String {
        format!("{}-{}", self.namespace, queue.as_str())
    }

    /// The full name of a topic.
    pub fn topic_name(&self, topic: &BusTopic) -> String {
        match topic {
            BusTopic::Messages(name) => format!("{}-topic-{name}", self.namespace),
            BusTopic::Notifications => format!("{}-notifications", self.namespace),
        }
    }

    /// The publish of one message to `destination`: its context is what the message carries.
    pub fn publish_span(&self, destination: &str, message_id: Option<&str>, parent: &TraceContext) -> Span {
        self.messaging(Operation::Publish, SpanKind::Producer, destination, message_id, parent, &[])
    }

    /// The handling of one message, whose producer is its parent and, as the conventions ask, a link.
    pub fn process_span(&self, destination: &str, message_id: Option<&str>, producer: &TraceContext) -> Span {
        let links = std::slice::from_ref(producer);
        self.messaging(Operation::Process, SpanKind::Consumer, destination, message_id, producer, links)
    }

    /// The handling of one message once more, later: a trace of its own that links to where it came from.
    pub fn later_process_span(
        &self,
        destination: &str,
        message_id: Option<&str>,
        cause: &TraceContext,
    ) -> Span {
        let (links, root) = (std::slice::from_ref(cause), TraceContext::default());
        self.messaging(Operation::Process, SpanKind::Consumer, destination, message_id, &root, links)
    }

    /// The taking of some messages from `destination`: linked to the producer of each, and a child of the only one.
    pub fn receive_span(&self, destination: &str, producers: &[TraceContext]) -> Span {
        let parent = only(producers);
        let mut span =
            self.messaging(Operation::Receive, SpanKind::Client, destination, None, &parent, producers);
        span.set_count(conventions::MESSAGING_BATCH_MESSAGE_COUNT, producers.len());
        span
    }

    /// The reading of one new row from the stream of `table`, a child of the row's own context.
    pub fn capture_span(&self, table: &'static str, message_id: &str, row: &TraceContext) -> Span {
        if !self.recording {
            return Span::none(row.clone());
        }
        let attributes = vec![
            KeyValue::new(conventions::DB_COLLECTION_NAME, table),
            KeyValue::new(conventions::MESSAGING_MESSAGE_ID, message_id.to_owned()),
        ];
        let links = std::slice::from_ref(row);
        self.span(format!("capture {table}"), SpanKind::Consumer, row, links, attributes)
    }

    /// One statement on `table` that is made once for some messages: linked to the span of each, and a child of the
    /// only one.
    pub fn statement_span(&self, verb: &'static str, table: &'static str, causes: &[TraceContext]) -> Span {
        if !self.recording {
            return Span::none(TraceContext::default());
        }
        let attributes = vec![
            KeyValue::new(conventions::DB_OPERATION_NAME, verb),
            KeyValue::new(conventions::DB_COLLECTION_NAME, table),
        ];
        let name = format!("{verb} {table}");
        let mut span = self.span(name, SpanKind::Client, &only(causes), causes, attributes);
        if causes.len() > 1 {
            span.set_count(conventions::DB_OPERATION_BATCH_SIZE, causes.len());
        }
        span
    }

    fn messaging(
        &self,
        operation: Operation,
        kind: SpanKind,
        destination: &str,
        message_id: Option<&str>,
        parent: &TraceContext,
        links: &[TraceContext],
    ) -> Span {
        if !self.recording {
            return Span::none(parent.clone());
        }
        let mut attributes = vec![
            KeyValue::new(conventions::MESSAGING_SYSTEM, Arc::clone(&self.system)),
            KeyValue::new(conventions::MESSAGING_DESTINATION_NAME, destination.to_owned()),
            KeyValue::new(conventions::MESSAGING_OPERATION_NAME, operation.name()),
            KeyValue::new(conventions::MESSAGING_OPERATION_TYPE, operation.kind()),
        ];
        if let Some(id) = message_id {
            attributes.push(KeyValue::new(conventions::MESSAGING_MESSAGE_ID, id.to_owned()));
        }
        self.span(format!("{} {destination}", operation.name()), kind, parent, links, attributes)
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

/// The only one of `contexts`, else none.
fn only(contexts: &[TraceContext]) -> TraceContext {
    match contexts {
        [one] => one.clone(),
        _ => TraceContext::default(),
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
