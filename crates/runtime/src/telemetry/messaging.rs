//! Spans by OpenTelemetry's messaging and database conventions.

use std::sync::Arc;

use opentelemetry::{KeyValue, trace::SpanKind};
use tidings_domain::{
    ports::{BusTopic, Queue},
    trace_context::TraceContext,
};

use super::{Span, Telemetry, passed_on};
use crate::conventions::{self, Operation};

impl Telemetry {
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

    /// The publish of one message long after its cause: a trace of its own that links to where it came from. Without spans
    /// the cause's context goes on.
    pub fn later_publish_span(&self, destination: &str, message_id: &str, cause: &TraceContext) -> Span {
        let (links, root) = (std::slice::from_ref(cause), TraceContext::default());
        self.messaging(Operation::Publish, SpanKind::Producer, destination, Some(message_id), &root, links)
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
        if !self.wants(row, &[]) {
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
        let parent = only(causes);
        if !self.wants(&parent, causes) {
            return Span::none(parent);
        }
        let attributes = vec![
            KeyValue::new(conventions::DB_OPERATION_NAME, verb),
            KeyValue::new(conventions::DB_COLLECTION_NAME, table),
        ];
        let name = format!("{verb} {table}");
        let mut span = self.span(name, SpanKind::Client, &parent, causes, attributes);
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
        if !self.wants(parent, links) {
            return Span::none(passed_on(parent, links));
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
}

/// The only one of `contexts`, else none.
fn only(contexts: &[TraceContext]) -> TraceContext {
    match contexts {
        [one] => one.clone(),
        _ => TraceContext::default(),
    }
}
