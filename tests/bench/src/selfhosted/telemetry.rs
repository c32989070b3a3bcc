//! What telemetry costs: the same load without a collector, with every trace and with one in a hundred, in turn.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::ensure;
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    flow::Flow,
    installation::{Installation, SERVICES},
    servers::Servers,
};
use crate::sink::Sink;

/// A collector that takes everything and keeps nothing but how much it was. Dropped, it stops listening.
struct Collector {
    address: SocketAddr,
    bytes: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Collector {
    async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let bytes = Arc::new(AtomicU64::new(0));
        let take = async |State(bytes): State<Arc<AtomicU64>>, body: Bytes| {
            bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
            StatusCode::OK
        };
        let app = Router::new()
            .route("/v1/traces", post(take))
            .layer(axum::extract::DefaultBodyLimit::disable())
            .with_state(Arc::clone(&bytes));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            // It ends with the bench.
            let _ = axum::serve(listener, app).await;
        });
        Ok(Self { address, bytes, _tasks: tasks })
    }
}

/// A way to run.
struct Way {
    name: &'static str,
    /// The share of traces that are exported; none without a collector.
    share: Option<&'static str>,
    /// Messages a second, and µs of CPU of the four a message, of each round.
    reached: Vec<(f64, f64)>,
    bytes: u64,
}

impl Way {
    fn new(name: &'static str, share: Option<&'static str>) -> Self {
        Self { name, share, reached: Vec::new(), bytes: 0 }
    }

    fn environment(&self, collector: &Collector) -> Vec<(&'static str, String)> {
        let Some(share) = self.share else { return Vec::new() };
        vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", collector.address)),
            ("OTEL_METRICS_EXPORTER", "prometheus".to_owned()),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio".to_owned()),
            ("OTEL_TRACES_SAMPLER_ARG", share.to_owned()),
        ]
    }

    fn median(&self, of: fn(&(f64, f64)) -> f64) -> f64 {
        let mut values: Vec<f64> = self.reached.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Runs each way in turn, round after round, and prints the medians beside those without a collector. The throughput that
/// every trace and that one in a hundred costs, in percent.
pub(crate) async fn measure(
    installation: &mut Installation,
    servers: &Servers,
    sink: &Sink,
    rounds: u32,
    (connections, under_way, duration): (usize, u64, Duration),
) -> anyhow::Result<(f64, f64)> {
    let collector = Collector::start().await?;
    let mut ways = [
        Way::new("none", None),
        Way::new("every trace", Some("1")),
        Way::new("one in a hundred", Some("0.01")),
    ];
    for _ in 0..rounds.max(1) {
        for way in &mut ways {
            installation.restart_with(way.environment(&collector)).await?;
            let before = collector.bytes.load(Ordering::Relaxed);
            let flow = Flow { installation, servers, sink };
            let reached = flow.closed(connections, Some(under_way), duration).await?;
            way.reached.push((reached.mailed, reached.costs.ours()));
            way.bytes += collector.bytes.load(Ordering::Relaxed) - before;
        }
    }
    installation.restart_with(Vec::new()).await?;
    println!();
    println!(
        "telemetry, medians of {} rounds of each, at most {under_way} messages under way:",
        rounds.max(1)
    );
    let (rate, cpu) = (ways[0].median(|reached| reached.0), ways[0].median(|reached| reached.1));
    for way in &ways {
        let (way_rate, way_cpu) = (way.median(|reached| reached.0), way.median(|reached| reached.1));
        println!(
            "  {:<17} {way_rate:>6.0} messages/s ({:.2}), {way_cpu:>4.0} µs of CPU of the {} each ({:.2}), {:.1} MB exported",
            way.name,
            way_rate / rate,
            SERVICES.len(),
            way_cpu / cpu,
            way.bytes as f64 / 1e6,
        );
        ensure!((way.bytes > 0) == way.share.is_some(), "{}: {} bytes were exported", way.name, way.bytes);
    }
    let cost = |way: &Way| (1.0 - way.median(|reached| reached.0) / rate) * 100.0;
    Ok((cost(&ways[1]), cost(&ways[2])))
}
