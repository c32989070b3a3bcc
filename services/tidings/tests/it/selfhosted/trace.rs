//! One POST is one trace through four processes, proven by each span's parent; a row by SQL begins one of its own.

use std::collections::{BTreeMap, BTreeSet};

use opentelemetry_proto::tonic::trace::v1::span::SpanKind::{self, Client, Consumer, Producer, Server};
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

    let (topic, items) = (stack.name("topic-messages"), stack.name("items"));
    let post = "POST /v1/topics/{topic}/messages";
    let publish = format!("publish {topic}");
    let process = format!("process {items}");
    let mut expected = from_the_capture(&stack, &process);
    expected.extend([
        span(API, Server, post, "the caller"),
        span(API, Producer, &publish, post),
        span(SUBSCRIBER, Client, &format!("receive {items}"), &publish),
        span(SUBSCRIBER, Consumer, &process, &publish),
        span(SUBSCRIBER, Client, "INSERT items", &process),
    ]);
    let of_trace =
        |spans: &[Span]| -> Vec<Span> { spans.iter().filter(|span| span.trace == trace).cloned().collect() };
    let spans = collector.wait_until(|spans| of_trace(spans).len() >= expected.len()).await;
    let spans = of_trace(&spans);
    assert_eq!(tree(&spans, &[(caller, "the caller")]), expected, "{spans:#?}");
    assert_eq!(spans.len(), expected.len(), "each of them once: {spans:#?}");
    for span in spans.iter().filter(|span| span.name.starts_with("receive")) {
        assert_eq!(span.attributes["messaging.batch.message_count"], "1", "{span:#?}");
    }
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
    for service in [API, SUBSCRIBER, WATCHER, MAILER] {
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
    let own = sent.trace.clone();
    let expected = from_the_capture(&stack, "nobody");
    let spans = collector
        .wait_until(|spans| spans.iter().filter(|span| span.trace == own).count() >= expected.len())
        .await;
    let spans: Vec<Span> = spans.into_iter().filter(|span| span.trace == own).collect();
    assert_eq!(tree(&spans, &[("", "nobody")]), expected, "{spans:#?}");
    assert_eq!(spans.len(), expected.len(), "each of them once: {spans:#?}");
}

#[tokio::test]
async fn what_is_taken_and_written_at_once_says_how_many_it_is() {
    const MESSAGES: usize = 20;
    let collector = Collector::start().await;
    let settings = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str())];
    let mut stack = Stack::start_on(Servers::shared().await, &settings).await;
    // They wait in the queue until somebody takes them.
    stack.stop("subscriber").await;
    let lines: Vec<String> = (0..MESSAGES).map(|number| format!("{{\"message\":\"{number}\"}}")).collect();
    let request = stack
        .request(Method::POST, "/v1/topics/messages/messages")
        .header(header::CONTENT_TYPE, "application/x-ndjson")
        .body(lines.join("\n"));
    let accepted = stack.ok(request).await;
    stack.up("subscriber").await;
    for result in accepted["results"].as_array().unwrap() {
        stack.finished(result["id"].as_str().unwrap()).await;
    }
    let (receive, insert) = (format!("receive {}", stack.name("items")), "INSERT items".to_owned());
    // One alone has no size of a batch (database conventions).
    let counts = |spans: &[Span], name: &str, attribute: &str| -> Vec<usize> {
        let those = spans.iter().filter(|span| span.name == name);
        those.map(|span| span.attributes.get(attribute).map_or(1, |count| count.parse().unwrap())).collect()
    };
    let taken = |spans: &[Span]| counts(spans, &receive, "messaging.batch.message_count");
    let written = |spans: &[Span]| counts(spans, &insert, "db.operation.batch.size");
    let spans = collector
        .wait_until(|spans| {
            [taken(spans), written(spans)].iter().all(|all| all.iter().sum::<usize>() >= MESSAGES)
        })
        .await;
    for counts in [taken(&spans), written(&spans)] {
        assert_eq!(counts.iter().sum::<usize>(), MESSAGES, "{counts:?}");
        assert!(counts.iter().any(|count| *count > 1), "{counts:?}");
    }
    for span in spans.iter().filter(|span| span.name == receive) {
        assert_eq!(
            span.links.len().to_string(),
            span.attributes["messaging.batch.message_count"],
            "{span:#?}"
        );
    }
}

const API: &str = "tidings-api";
const SUBSCRIBER: &str = "tidings-subscriber";
const WATCHER: &str = "tidings-cdc-watcher";
const MAILER: &str = "tidings-mailer";

/// Service, kind, name and the parent's name.
type Node = (String, SpanKind, String, String);

fn span(service: &str, kind: SpanKind, name: &str, parent: &str) -> Node {
    (service.to_owned(), kind, name.to_owned(), parent.to_owned())
}

/// The spans from a row's capture to its mail.
fn from_the_capture(stack: &Stack, parent: &str) -> BTreeSet<Node> {
    let publish = format!("publish {}", stack.name("notifications"));
    let mail = stack.name("mail");
    let process = format!("process {mail}");
    [
        span(WATCHER, Consumer, "capture items", parent),
        span(WATCHER, Producer, &publish, "capture items"),
        span(MAILER, Client, &format!("receive {mail}"), &publish),
        span(MAILER, Consumer, &process, &publish),
        span(MAILER, Client, "INSERT deliveries", &process),
        span(MAILER, Client, "send mail", &process),
    ]
    .into()
}

/// What `spans` are, each by its parent's name; `others` are names of spans that are not among them.
fn tree(spans: &[Span], others: &[(&str, &str)]) -> BTreeSet<Node> {
    let mut by_id: BTreeMap<&str, &str> =
        spans.iter().map(|span| (span.id.as_str(), span.name.as_str())).collect();
    assert_eq!(by_id.len(), spans.len(), "span ids are unique");
    by_id.extend(others.iter().copied());
    let node = |it: &Span| {
        let parent = by_id.get(it.parent.as_str()).copied().unwrap_or("a span that is not in the trace");
        span(&it.service, it.kind, &it.name, parent)
    };
    spans.iter().map(node).collect()
}
