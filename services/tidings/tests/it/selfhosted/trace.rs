//! One POST is one trace through four processes, proven by each span's parent; a row by SQL begins one of its own.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, header};

use super::{servers::Servers, stack::Stack};
use crate::harness::collector::{Collector, Span};

#[tokio::test]
async fn one_post_is_one_trace_through_the_four_processes() {
    let collector = Collector::start().await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("OTEL_METRIC_EXPORT_INTERVAL", "250"),
    ];
    let stack = Stack::start_on(Servers::shared().await, &settings).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let (trace, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let request = stack
        .request(Method::POST, "/v1/topics/messages/messages")
        .header("traceparent", format!("00-{trace}-{caller}-01"))
        .header(header::CONTENT_TYPE, "text/plain")
        .body("traced");
    let accepted = stack.ok(request).await;
    stack.finished(accepted["id"].as_str().unwrap()).await;

    let names = |what: &str| stack.name(what);
    let (topic, items) = (names("topic-messages"), names("items"));
    let (notifications, mail) = (names("notifications"), names("mail"));
    let (api, subscriber) = ("tidings-api", "tidings-subscriber");
    let (watcher, mailer) = ("tidings-cdc-watcher", "tidings-mailer");
    let expected: BTreeSet<(String, String, String)> = [
        (api, "POST /v1/topics/{topic}/messages".to_owned(), "the caller".to_owned()),
        (api, format!("publish {topic}"), "POST /v1/topics/{topic}/messages".to_owned()),
        (subscriber, format!("receive {items}"), format!("publish {topic}")),
        (subscriber, format!("process {items}"), format!("publish {topic}")),
        (subscriber, "INSERT items".to_owned(), format!("process {items}")),
        (watcher, "capture items".to_owned(), format!("process {items}")),
        (watcher, format!("publish {notifications}"), "capture items".to_owned()),
        (mailer, format!("receive {mail}"), format!("publish {notifications}")),
        (mailer, format!("process {mail}"), format!("publish {notifications}")),
        (mailer, "INSERT deliveries".to_owned(), format!("process {mail}")),
        (mailer, "send mail".to_owned(), format!("process {mail}")),
    ]
    .map(|(service, name, parent)| (service.to_owned(), name, parent))
    .into();
    let of_trace =
        |spans: &[Span]| -> Vec<Span> { spans.iter().filter(|span| span.trace == trace).cloned().collect() };
    let spans = collector.wait_until(|spans| of_trace(spans).len() >= expected.len()).await;
    let spans = of_trace(&spans);
    let mut by_id: BTreeMap<&str, &str> =
        spans.iter().map(|span| (span.id.as_str(), span.name.as_str())).collect();
    assert_eq!(by_id.len(), spans.len(), "span ids are unique");
    by_id.insert(caller, "the caller");
    let tree: BTreeSet<(String, String, String)> = spans
        .iter()
        .map(|span| {
            let parent = by_id.get(span.parent.as_str()).copied().unwrap_or("nobody");
            (span.service.clone(), span.name.clone(), parent.to_owned())
        })
        .collect();
    assert_eq!(tree, expected, "{spans:#?}");
    assert_eq!(spans.len(), expected.len(), "each of them once: {spans:#?}");
    for span in spans.iter().filter(|span| span.name.starts_with("publish")) {
        assert_eq!(span.attributes["messaging.system"], "rabbitmq", "{span:#?}");
    }
    for span in spans.iter().filter(|span| span.name.starts_with("process")) {
        assert!(span.links.contains(&(trace.to_owned(), span.parent.clone())), "{span:#?}");
    }

    // What a client does not record none of the four does, through the broker, the table and the delivery's row.
    let unrecorded = "1bf7651916cd43dd8448eb211c80319c";
    let traceparent = format!("00-{unrecorded}-{caller}-00");
    let request = stack
        .request(Method::POST, "/v1/topics/messages/messages")
        .header("traceparent", &traceparent)
        .header(header::CONTENT_TYPE, "text/plain")
        .body("not traced");
    stack.finished(stack.ok(request).await["id"].as_str().unwrap()).await;
    for table in ["items", "deliveries"] {
        let carried = stack.psql(&format!("select traceparent from {table} order by 1 desc limit 1")).await;
        assert_eq!(carried, traceparent, "{table}");
    }

    // Each process pushes its own metrics under its own name.
    for service in [api, subscriber, watcher, mailer] {
        collector.push_that(|push| push.resource["service.name"] == service).await;
    }

    // A row by SQL has no trace yet: the capture begins one.
    let id =
        stack.psql("insert into items (topic, message) values ('messages', 'by SQL') returning id").await;
    stack.finished(&id).await;
    let spans =
        collector.wait_until(|spans| spans.iter().filter(|span| span.name == "send mail").count() >= 2).await;
    let sent = spans.iter().rfind(|span| span.name == "send mail" && span.trace != trace).unwrap();
    let of_unrecorded =
        |span: &&Span| span.trace == unrecorded || span.links.iter().any(|(trace, _)| trace == unrecorded);
    assert_eq!(spans.iter().find(of_unrecorded).map(|span| &span.name), None);
    let own: Vec<&Span> = spans.iter().filter(|span| span.trace == sent.trace).collect();
    let root = own.iter().find(|span| span.parent.is_empty()).unwrap_or_else(|| panic!("{own:#?}"));
    assert_eq!((root.service.as_str(), root.name.as_str()), (watcher, "capture items"), "{own:#?}");
}
