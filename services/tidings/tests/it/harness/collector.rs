//! A tiny OTLP/HTTP collector: takes spans as protobuf and tells them as plain values.

#![expect(
    clippy::disallowed_methods,
    reason = "a test double: the order in which waiters wake is not looked at"
)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    common::v1::{KeyValue, any_value},
};
use prost::Message as _;
use tokio::{sync::watch, task::JoinSet, time::timeout};

use super::PATIENCE;

/// One span.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// `service.name` of its resource.
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Its parent's id, empty for a root.
    pub(crate) parent: String,
    /// Trace and span ids of its links.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) attributes: BTreeMap<String, String>,
}

/// The collector; it ends when it is dropped.
pub(crate) struct Collector {
    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is set to.
    pub(crate) endpoint: String,
    inbox: Inbox,
    _serving: JoinSet<()>,
}

#[derive(Clone)]
struct Inbox {
    spans: Arc<Mutex<Vec<Span>>>,
    count: watch::Sender<usize>,
}

impl Collector {
    /// One that listens on a free port.
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let inbox = Inbox { spans: Arc::default(), count: watch::channel(0).0 };
        let router = Router::new().route("/v1/traces", post(take)).with_state(inbox.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { endpoint, inbox, _serving: serving }
    }

    /// Waits until `enough` says that all spans are there; then all that came are given.
    pub(crate) async fn wait_until(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut changed = self.inbox.count.subscribe();
        let wait = async {
            loop {
                let spans = self.spans();
                if enough(&spans) {
                    return spans;
                }
                changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not all spans came: {:#?}", self.spans()))
    }

    /// All that came so far.
    pub(crate) fn spans(&self) -> Vec<Span> {
        self.inbox.spans.lock().unwrap().clone()
    }
}

async fn take(State(inbox): State<Inbox>, body: Bytes) -> (StatusCode, Vec<u8>) {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    let mut spans = inbox.spans.lock().unwrap();
    for resource in request.resource_spans {
        let attributes = resource.resource.map(|resource| texts(&resource.attributes)).unwrap_or_default();
        let service = attributes.get("service.name").cloned().unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                service: service.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                attributes: texts(&span.attributes),
            });
        }
    }
    inbox.count.send_replace(spans.len());
    (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
