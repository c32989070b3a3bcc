//! What is pushed by OTLP is what `/metrics` shows: one registry.

use std::collections::BTreeMap;

use tokio::time::timeout;

use crate::harness::{
    PATIENCE, Server,
    collector::{Collector, Samples},
};

/// Counters and histograms of the page, by name and labels. Gauges are read at the time of each asking.
async fn page(server: &Server) -> Samples {
    let answer = server.client.get(format!("{}/metrics", server.admin_url)).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let labels = labels.trim_end_matches('}').split("\",").filter(|label| !label.is_empty());
        let labels: BTreeMap<String, String> = labels
            .map(|label| label.split_once("=\"").unwrap())
            .map(|(name, value)| (name.to_owned(), value.trim_end_matches('"').to_owned()))
            .collect();
        if is_counted(name) {
            samples.insert((name.to_owned(), labels), value.parse().unwrap());
        }
    }
    samples
}

fn is_counted(name: &str) -> bool {
    ["_total", "_count", "_sum"].iter().any(|end| name.ends_with(end))
}

#[tokio::test]
async fn a_collector_gets_the_numbers_of_the_page() {
    let collector = Collector::start().await;
    let server = Server::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_TRACES_EXPORTER", "none"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ])
    .await;
    server.subscribe_confirmed(&["reader@example.com"]).await;
    for number in 0..3 {
        let id = server.publish(&format!("message {number}")).await;
        assert_eq!(server.finished(&id).await["state"], "done");
    }
    // What is counted beside the messages' way may be counted a moment later, and a push may be older than the page.
    let agreed = async {
        loop {
            let (page, push) = (page(&server).await, collector.push_that(|_| true).await);
            let counted: Samples = push
                .samples
                .iter()
                .filter(|((name, _), _)| is_counted(name))
                .map(|(series, value)| (series.clone(), *value))
                .collect();
            if counted == page {
                return push;
            }
        }
    };
    let push = timeout(PATIENCE, agreed).await.unwrap_or_else(|_| panic!("the page has something else"));
    let sent = push.samples.iter().find(|((name, labels), _)| {
        name == "tidings_deliveries_ended_total" && labels.get("outcome").is_some_and(|it| it == "sent")
    });
    assert_eq!(sent.map(|(_, value)| *value), Some(3.0), "{:#?}", push.samples);
    assert_eq!(push.resource["service.name"], "tidings");
    assert!(push.resource.contains_key("service.instance.id"), "{:#?}", push.resource);
    assert_eq!(collector.spans().len(), 0, "spans were not asked for");
}

#[tokio::test]
async fn what_was_not_pushed_yet_is_pushed_at_the_stop() {
    let collector = Collector::start().await;
    let endpoint = format!("{}/v1/metrics", collector.endpoint);
    let mut server = Server::start_with(&[("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", endpoint.as_str())]).await;
    server.subscribe_confirmed(&["reader@example.com"]).await;
    let id = server.publish("counted").await;
    assert_eq!(server.finished(&id).await["state"], "done");
    assert_eq!(collector.pushes(), 0, "a minute has not passed");
    let stopped = async { assert!(server.stop().await.success(), "{}", server.log()) };
    let (push, ()) = tokio::join!(collector.push_that(|_| true), stopped);
    let planned = push.samples.iter().find(|((name, _), _)| name == "tidings_deliveries_planned_total");
    assert_eq!(planned.map(|(_, value)| *value), Some(1.0), "{:#?}", push.samples);
    assert_eq!(collector.spans().len(), 0, "the endpoint is for metrics alone");
}

#[tokio::test]
async fn where_prometheus_reads_the_page_nothing_is_pushed() {
    let collector = Collector::start().await;
    let mut server = Server::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_METRICS_EXPORTER", "prometheus"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ])
    .await;
    server.subscribe_confirmed(&["reader@example.com"]).await;
    let id = server.publish("counted").await;
    assert_eq!(server.finished(&id).await["state"], "done");
    assert!(page(&server).await.keys().any(|(name, _)| name == "tidings_deliveries_ended_total"));
    // Stopped, it has flushed all that there is.
    assert!(server.stop().await.success(), "{}", server.log());
    assert_eq!(collector.pushes(), 0);
    assert!(!collector.spans().is_empty(), "spans go there");
}
