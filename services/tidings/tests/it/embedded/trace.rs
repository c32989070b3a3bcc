//! One POST is one trace through the four services, proven by each span's parent.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, header};

use crate::harness::{
    Server,
    collector::{Collector, Span},
};

#[tokio::test]
async fn one_post_is_one_trace_through_the_four_services() {
    let collector = Collector::start().await;
    let server = Server::start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint)]).await;
    server.subscribe("reader@example.com").await;
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = server
        .request(Method::POST, "/v1/topics/messages/messages")
        .header("traceparent", format!("00-{trace}-{caller}-01"))
        .header(header::CONTENT_TYPE, "text/plain")
        .body("traced");
    let accepted = server.ok(request).await;
    server.finished(accepted["id"].as_str().unwrap()).await;

    // Each span with its service and its parent's name.
    let (api, subscriber) = ("tidings-api", "tidings-subscriber");
    let (watcher, mailer) = ("tidings-cdc-watcher", "tidings-mailer");
    let expected = [
        (api, "POST /v1/topics/{topic}/messages", "the caller"),
        (api, "publish tidings-topic-messages", "POST /v1/topics/{topic}/messages"),
        (subscriber, "receive tidings-items", "publish tidings-topic-messages"),
        (subscriber, "process tidings-items", "publish tidings-topic-messages"),
        (subscriber, "INSERT items", "process tidings-items"),
        (watcher, "capture items", "process tidings-items"),
        (watcher, "publish tidings-notifications", "capture items"),
        (mailer, "receive tidings-mail", "publish tidings-notifications"),
        (mailer, "process tidings-mail", "publish tidings-notifications"),
        (mailer, "INSERT deliveries", "process tidings-mail"),
        (mailer, "send mail", "process tidings-mail"),
    ];
    let of_trace =
        |spans: &[Span]| -> Vec<Span> { spans.iter().filter(|span| span.trace == trace).cloned().collect() };
    let spans = collector.wait_until(|spans| of_trace(spans).len() >= expected.len()).await;
    let spans = of_trace(&spans);
    let mut names: BTreeMap<&str, &str> =
        spans.iter().map(|span| (span.id.as_str(), span.name.as_str())).collect();
    assert_eq!(names.len(), spans.len(), "span ids are unique");
    names.insert(caller, "the caller");
    let tree: BTreeSet<(&str, &str, &str)> = spans
        .iter()
        .map(|span| {
            let parent = names.get(span.parent.as_str()).copied().unwrap_or("nobody");
            (span.service.as_str(), span.name.as_str(), parent)
        })
        .collect();
    assert_eq!(tree, BTreeSet::from(expected), "{spans:#?}");
    assert_eq!(spans.len(), expected.len(), "each of them once: {spans:#?}");
    let publish =
        spans.iter().find(|span| span.service == "tidings-api" && span.name.starts_with("publish")).unwrap();
    assert_eq!(publish.attributes["messaging.destination.name"], "tidings-topic-messages");
    assert_eq!(publish.attributes["messaging.system"], "sqlite");
    assert_eq!(publish.attributes["messaging.message.id"], accepted["id"].as_str().unwrap());
    // A single message's consumer has the producer's span as parent and as link.
    for span in spans.iter().filter(|span| span.name.starts_with("process")) {
        assert!(span.links.contains(&(trace.to_owned(), span.parent.clone())), "{span:#?}");
    }
}

#[tokio::test]
async fn a_garbage_traceparent_begins_a_trace_of_its_own() {
    let collector = Collector::start().await;
    let server = Server::start_with(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint)]).await;
    let request = server
        .request(Method::POST, "/v1/topics/messages/messages")
        .header("traceparent", "00-nonsense-nonsense-01")
        .header(header::CONTENT_TYPE, "text/plain")
        .body("traced");
    let accepted = server.ok(request).await;
    server.finished(accepted["id"].as_str().unwrap()).await;
    let is_post = |span: &Span| span.name.starts_with("POST /v1/topics/{topic}/messages");
    let spans = collector.wait_until(|spans| spans.iter().any(is_post)).await;
    let post = spans.iter().find(|span| is_post(span)).unwrap();
    assert_eq!(post.parent, "");
    assert_eq!(post.trace.len(), 32);
}
