//! A tiny OTLP/HTTP collector: takes spans and metrics as protobuf and tells them as plain values.

#![expect(
    clippy::disallowed_methods,
    reason = "a test double: the order in which waiters wake is not looked at"
)]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
        trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, NumberDataPoint, metric, number_data_point},
    resource::v1::Resource,
    trace::v1::span::SpanKind,
};
use prost::Message as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::PATIENCE;

/// One span.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    /// `service.name` of its resource.
    pub(crate) service: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) trace: String,
    pub(crate) id: String,
    /// Its parent's id, empty for a root.
    pub(crate) parent: String,
    /// Trace and span ids of its links.
    pub(crate) links: Vec<(String, String)>,
    pub(crate) attributes: BTreeMap<String, String>,
    /// Its events with their attributes, in order.
    pub(crate) events: Vec<(String, BTreeMap<String, String>)>,
    /// What its status says where it failed.
    pub(crate) status: String,
}

/// Values of metrics by name and labels, as Prometheus writes them; of a histogram `_count` and `_sum`.
pub(crate) type Samples = BTreeMap<(String, BTreeMap<String, String>), f64>;

/// One push of all metrics of a process.
#[derive(Clone, Debug, Default)]
pub(crate) struct Push {
    /// Attributes of its resource.
    pub(crate) resource: BTreeMap<String, String>,
    pub(crate) samples: Samples,
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
    pushes: Arc<Mutex<Vec<Push>>>,
    changed: watch::Sender<()>,
}

impl Collector {
    /// One that listens on a free port.
    pub(crate) async fn start() -> Self {
        Self::serve(take_all, None).await
    }

    /// One that is reached by TLS alone.
    pub(crate) async fn secure(acceptor: TlsAcceptor) -> Self {
        Self::serve(take_all, Some(acceptor)).await
    }

    /// One that takes connections and never answers.
    pub(crate) async fn hanging() -> Self {
        let hang = async |State(inbox): State<Inbox>| {
            inbox.changed.send_replace(());
            std::future::pending::<StatusCode>().await
        };
        Self::serve(|inbox| Router::new().fallback(hang).with_state(inbox), None).await
    }

    async fn serve(router: impl FnOnce(Inbox) -> Router, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
        let inbox = Inbox { spans: Arc::default(), pushes: Arc::default(), changed: watch::channel(()).0 };
        let router = router(inbox.clone());
        let mut serving = JoinSet::new();
        match tls {
            None => serving.spawn(async move { axum::serve(listener, router).await.unwrap() }),
            Some(acceptor) => {
                let listener = TlsListener { listener, acceptor };
                serving.spawn(async move { axum::serve(listener, router).await.unwrap() })
            }
        };
        Self { endpoint, inbox, _serving: serving }
    }

    /// Waits until `enough` says that all spans are there; then all that came are given.
    pub(crate) async fn wait_until(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut changed = self.inbox.changed.subscribe();
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

    /// The next push of metrics from now on that is as `is_it` says.
    pub(crate) async fn push_that(&self, is_it: impl Fn(&Push) -> bool) -> Push {
        let mut seen = self.inbox.pushes.lock().unwrap().len();
        let mut changed = self.inbox.changed.subscribe();
        let wait = async {
            loop {
                let new = self.inbox.pushes.lock().unwrap()[seen..].to_vec();
                seen += new.len();
                if let Some(push) = new.into_iter().find(|push| is_it(push)) {
                    return push;
                }
                changed.changed().await.unwrap();
            }
        };
        timeout(PATIENCE, wait).await.expect("such a push of metrics in time")
    }

    /// How often metrics were pushed.
    pub(crate) fn pushes(&self) -> usize {
        self.inbox.pushes.lock().unwrap().len()
    }

    /// Waits until somebody has sent something since `act` began, whatever is made of it.
    pub(crate) async fn is_called<T>(&self, act: impl Future<Output = T>) -> T {
        let mut changed = self.inbox.changed.subscribe();
        let did = act.await;
        timeout(PATIENCE, changed.changed()).await.expect("a call in time").unwrap();
        did
    }
}

/// Hands out connections whose handshake went well; the others it drops.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Addr = SocketAddr;
    type Io = TlsStream<TcpStream>;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, addr) = self.listener.accept().await.unwrap();
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, addr);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

fn take_all(inbox: Inbox) -> Router {
    let router = Router::new().route("/v1/traces", post(take_spans));
    router.route("/v1/metrics", post(take_metrics)).with_state(inbox)
}

async fn take_spans(State(inbox): State<Inbox>, body: Bytes) -> (StatusCode, Vec<u8>) {
    let Ok(request) = ExportTraceServiceRequest::decode(body) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    let mut spans = inbox.spans.lock().unwrap();
    for resource in request.resource_spans {
        let service = attributes(resource.resource).remove("service.name").unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            spans.push(Span {
                service: service.clone(),
                kind: span.kind(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                attributes: texts(&span.attributes),
                events: span
                    .events
                    .iter()
                    .map(|event| (event.name.clone(), texts(&event.attributes)))
                    .collect(),
                status: span.status.map(|status| status.message).unwrap_or_default(),
            });
        }
    }
    drop(spans);
    inbox.changed.send_replace(());
    (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
}

async fn take_metrics(State(inbox): State<Inbox>, body: Bytes) -> (StatusCode, Vec<u8>) {
    let Ok(request) = ExportMetricsServiceRequest::decode(body) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    for resource in request.resource_metrics {
        let mut push = Push { resource: attributes(resource.resource), ..Push::default() };
        for scope in resource.scope_metrics {
            let name = scope.scope.map(|scope| scope.name).unwrap_or_default();
            for metric in scope.metrics {
                sample(&metric, &name, &mut push.samples);
            }
        }
        inbox.pushes.lock().unwrap().push(push);
    }
    inbox.changed.send_replace(());
    (StatusCode::OK, ExportMetricsServiceResponse::default().encode_to_vec())
}

/// What Prometheus makes of a metric.
fn sample(metric: &Metric, scope: &str, samples: &mut Samples) {
    let unit = match metric.unit.as_str() {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let name = format!("{}{unit}", metric.name.replace('.', "_"));
    let labels = |attributes: &[KeyValue]| {
        let mut labels: BTreeMap<String, String> =
            texts(attributes).into_iter().map(|(name, value)| (name.replace('.', "_"), value)).collect();
        labels.insert("otel_scope_name".to_owned(), scope.to_owned());
        labels
    };
    let mut put = |name: String, attributes: &[KeyValue], value| {
        samples.insert((name, labels(attributes)), value);
    };
    let number = |point: &NumberDataPoint| match point.value {
        Some(number_data_point::Value::AsInt(value)) => value as f64,
        Some(number_data_point::Value::AsDouble(value)) => value,
        None => f64::NAN,
    };
    match metric.data.as_ref() {
        Some(metric::Data::Gauge(gauge)) => {
            gauge.data_points.iter().for_each(|point| put(name.clone(), &point.attributes, number(point)));
        }
        Some(metric::Data::Sum(sum)) => {
            let name = if sum.is_monotonic { format!("{name}_total") } else { name };
            sum.data_points.iter().for_each(|point| put(name.clone(), &point.attributes, number(point)));
        }
        Some(metric::Data::Histogram(histogram)) => {
            for point in &histogram.data_points {
                put(format!("{name}_count"), &point.attributes, point.count as f64);
                put(format!("{name}_sum"), &point.attributes, point.sum.unwrap_or_default());
            }
        }
        other => panic!("a kind of metric that is not ours: {other:?}"),
    }
}

fn attributes(resource: Option<Resource>) -> BTreeMap<String, String> {
    resource.map(|resource| texts(&resource.attributes)).unwrap_or_default()
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
