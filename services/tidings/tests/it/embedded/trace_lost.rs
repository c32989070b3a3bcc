//! A collector that is away or hangs costs nothing but its spans, which are counted.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::harness::{PATIENCE, Server, collector::Collector};

/// How long a stop may take that waits for a collector: its flush, and what every stop takes.
const QUICK: Duration = Duration::from_secs(8);

async fn page(server: &Server) -> String {
    let answer = server.client.get(format!("{}/metrics", server.admin_url)).send().await.unwrap();
    answer.text().await.unwrap()
}

/// The sum of a counter's series that have this in their labels.
fn total(page: &str, name: &str, labels: &str) -> f64 {
    let of_it = page.lines().filter(|line| line.starts_with(name) && line.contains(labels));
    of_it.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

/// Waits until a counter has counted something.
async fn until_counted(server: &Server, name: &str, labels: &str) {
    let look = async {
        while total(&page(server).await, name, labels) == 0.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let counted = timeout(PATIENCE, look).await;
    assert!(counted.is_ok(), "{name} with {labels} is never counted:\n{}", server.log());
}

async fn stops_quickly(server: &mut Server) {
    let began = Instant::now();
    assert!(server.stop().await.success(), "{}", server.log());
    assert!(began.elapsed() < QUICK, "it took {:?} to stop", began.elapsed());
    assert!(server.log().contains("not all spans were exported"), "{}", server.log());
}

#[tokio::test]
async fn a_collector_that_is_away() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{nobody}");
    let mut server = Server::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "500"),
    ])
    .await;
    server.subscribe("reader@example.com").await;
    let id = server.publish("not traced anywhere").await;
    assert_eq!(server.finished(&id).await["deliveries"]["sent"], 1);
    until_counted(&server, "otel_sdk_exporter_span_exported_total", "error_type").await;
    let page = page(&server).await;
    let exported = |labels| total(&page, "otel_sdk_exporter_span_exported_total", labels);
    assert_eq!(exported(""), exported("error_type"), "none was taken: {page}");
    stops_quickly(&mut server).await;
    assert!(server.log().contains("metrics cannot be pushed"), "{}", server.log());
    let said = server.log().matches("spans cannot be exported").count();
    assert!((1..=4).contains(&said), "once a service, not once an export: {said}\n{}", server.log());
}

#[tokio::test]
async fn a_collector_that_hangs() {
    let collector = Collector::hanging().await;
    let mut server = Server::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "64"),
    ])
    .await;
    collector.is_called(server.subscribe_confirmed(&["reader@example.com"])).await;
    // More spans than may wait: those past them are dropped while the messages go their way.
    let began = Instant::now();
    let mut ids = Vec::new();
    for number in 0..100 {
        ids.push(server.publish(&format!("message {number}")).await);
    }
    for id in &ids {
        assert_eq!(server.finished(id).await["deliveries"]["sent"], 1);
    }
    // The exporter gives up after 10 s: had anything waited for it, this would have taken longer.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(30), "100 messages took {took:?}");
    until_counted(&server, "otel_sdk_processor_span_processed_total", "queue_full").await;
    stops_quickly(&mut server).await;
}
