//! One message in hand.

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use tidings_domain::{
    ports::{Lease, Received},
    trace_context::TraceContext,
    wire::header,
};
use tokio::time::Instant;

use crate::{
    conventions,
    telemetry::{Span, Telemetry},
};

/// A message in hand with what the loop knows of it.
pub(super) struct Entry {
    pub(super) received: Received,
    pub(super) state: State,
}

/// What the loop knows of a message beside its content.
pub(super) struct State {
    /// Failed attempts.
    pub(super) attempts: u32,
    /// Since when it waits for its turn.
    pub(super) since: Instant,
    /// Its process span once it was begun, with the context that it came with.
    span: Option<(Span, TraceContext)>,
}

impl Entry {
    pub(super) fn new(received: Received, since: Instant) -> Self {
        Self { received, state: State { attempts: 0, since, span: None } }
    }

    pub(super) fn lease(&self) -> Lease {
        self.received.lease
    }

    /// Begins the process span, once; from then on the envelope carries its context.
    pub(super) fn begin_span(&mut self, telemetry: &Telemetry, destination: &str) {
        if self.state.span.is_some() || !telemetry.is_recording() {
            return;
        }
        let headers = &mut self.received.envelope.headers;
        let producer = context(headers);
        let id = headers.get(header::ID).map(String::as_str).or(self.received.envelope.native_id.as_deref());
        let span = telemetry.process_span(destination, id, &producer);
        set_context(headers, span.trace());
        self.state.span = Some((span, producer));
    }

    /// Notes in the span that it is tried again. A batch that failed whole has used nobody's attempts.
    pub(super) fn note_retry(&mut self) {
        let attempts = i64::from(self.state.attempts);
        if let Some((span, _)) = &mut self.state.span {
            span.event(conventions::EVENT_RETRY, vec![KeyValue::new(conventions::ATTEMPTS, attempts)]);
        }
    }

    /// Notes in the span that it is a dead letter, and ends it as failed.
    pub(super) fn give_up(&mut self, reason: &'static str, detail: &str, attempts: u32) {
        if let Some((span, _)) = &mut self.state.span {
            let attributes = vec![
                KeyValue::new(conventions::REASON, reason),
                KeyValue::new(conventions::ATTEMPTS, i64::from(attempts)),
            ];
            span.event(conventions::EVENT_DEAD_LETTER, attributes);
        }
        self.fail(reason, detail);
    }

    /// Ends the span as failed, and gives the envelope back the context that it came with.
    pub(super) fn fail(&mut self, reason: &'static str, detail: &str) {
        if let Some((mut span, producer)) = self.state.span.take() {
            span.fail(reason, detail);
            set_context(&mut self.received.envelope.headers, &producer);
        }
    }
}

/// The trace context that headers carry.
pub(crate) fn context(headers: &BTreeMap<String, String>) -> TraceContext {
    let get = |name: &str| headers.get(name).map(String::as_str);
    TraceContext::parse(get(header::TRACEPARENT), get(header::TRACESTATE))
}

/// Lets headers carry `trace`.
pub(crate) fn set_context(headers: &mut BTreeMap<String, String>, trace: &TraceContext) {
    for (name, value) in [(header::TRACEPARENT, &trace.traceparent), (header::TRACESTATE, &trace.tracestate)]
    {
        match value {
            Some(value) => headers.insert(name.to_owned(), value.clone()),
            None => headers.remove(name),
        };
    }
}
