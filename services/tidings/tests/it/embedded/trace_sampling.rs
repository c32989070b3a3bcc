//! Who began a trace decides whether it is recorded, from the POST to the last attempt; nothing else of a client's is carried.

use reqwest::{Method, header};
use tidings_servers::smtp::{Act, SmtpServer, Step};

use crate::harness::{
    Server,
    collector::{Collector, Span},
};

const RECORDED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNRECORDED: &str = "00-1bf7651916cd43dd8448eb211c80319c-c7ad6b7169203331-00";

async fn start(collector: &Collector, smtp: &SmtpServer, settings: &[(&str, &str)]) -> Server {
    let url = smtp.url();
    let mut all = vec![
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
        ("SMTP_URL", &url),
        ("TIDINGS_MAILER_RETRY_FIRST_S", "1"),
        ("TIDINGS_MAILER_RETRY_MOST_S", "1"),
    ];
    all.extend(settings);
    let server = Server::start_with(&all).await;
    server.subscribe_confirmed(&["reader@example.com"]).await;
    server
}

/// Posts with these headers; waits until it is mailed.
async fn publish(server: &Server, headers: &[(&str, &str)]) -> String {
    let mut request = server.request(Method::POST, "/v1/topics/messages/messages");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.header(header::CONTENT_TYPE, "text/plain").body("traced or not");
    let id = server.ok(request).await["id"].as_str().unwrap().to_owned();
    assert_eq!(server.finished(&id).await["state"], "done");
    id
}

/// The spans that have to do with a trace.
fn of_trace(spans: &[Span], traceparent: &str) -> Vec<Span> {
    let trace = &traceparent[3..35];
    let is_it = |span: &&Span| span.trace == trace || span.links.iter().any(|(linked, _)| linked == trace);
    spans.iter().filter(is_it).cloned().collect()
}

#[tokio::test]
async fn what_a_client_does_not_record_is_recorded_nowhere_also_at_a_later_attempt() {
    let (collector, smtp) = (Collector::start().await, SmtpServer::start().await);
    let mut server = start(&collector, &smtp, &[]).await;
    smtp.once(Step::Rcpt, Act::Reply("450 4.2.1 greylisted"));
    let id = publish(&server, &[("traceparent", UNRECORDED)]).await;
    // The decision went through the table and the delivery's row.
    for table in ["items", "deliveries"] {
        let carried = server.sqlite3(&format!("select traceparent from {table}")).await;
        assert_eq!(carried, UNRECORDED, "{table}");
    }
    publish(&server, &[("traceparent", RECORDED)]).await;
    // Stopped, it has exported all that there is.
    assert!(server.stop().await.success(), "{}", server.log());
    let spans = collector.spans();
    assert_eq!(of_trace(&spans, RECORDED).len(), 11, "{spans:#?}");
    assert_eq!(of_trace(&spans, UNRECORDED).len(), 0);
    let of_it: Vec<_> = spans
        .iter()
        .filter(|span| span.attributes.get("messaging.message.id").is_some_and(|message| *message == id))
        .collect();
    assert!(of_it.is_empty(), "{of_it:#?}");
    assert_eq!(spans.iter().filter(|span| span.name == "send mail").count(), 1, "{spans:#?}");
}

#[tokio::test]
async fn of_new_traces_the_standard_variables_decide() {
    let (collector, smtp) = (Collector::start().await, SmtpServer::start().await);
    let never = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.0")];
    let mut server = start(&collector, &smtp, &never).await;
    publish(&server, &[]).await;
    publish(&server, &[("traceparent", RECORDED)]).await;
    publish(&server, &[]).await;
    assert!(server.stop().await.success(), "{}", server.log());
    let spans = collector.spans();
    assert_eq!((spans.len(), of_trace(&spans, RECORDED).len()), (11, 11), "{spans:#?}");
}

#[tokio::test]
async fn one_trace_is_recorded_whole_or_not_at_all() {
    let (collector, smtp) = (Collector::start().await, SmtpServer::start().await);
    let half = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
    let mut server = start(&collector, &smtp, &half).await;
    for _ in 0..16 {
        smtp.once(Step::Rcpt, Act::Reply("450 4.2.1 greylisted"));
        publish(&server, &[]).await;
    }
    assert!(server.stop().await.success(), "{}", server.log());
    let spans = collector.spans();
    let roots: Vec<_> = spans
        .iter()
        .filter(|span| span.name == "POST /v1/topics/{topic}/messages" && span.parent.is_empty())
        .collect();
    // That all or none of 16 are recorded comes once in 30,000 runs.
    assert!((1..16).contains(&roots.len()), "{} of 16", roots.len());
    for root in &roots {
        let of_it = of_trace(&spans, &format!("00-{}-", root.trace));
        // The tree, whose first attempt was refused, and the later attempt that links to it.
        assert_eq!(of_it.len(), 12, "{of_it:#?}");
    }
    let mails = spans.iter().filter(|span| span.name == "send mail").count();
    assert_eq!(mails, 2 * roots.len(), "no attempt of what is not recorded");
}

#[tokio::test]
async fn baggage_is_neither_kept_nor_passed_on() {
    let (collector, smtp) = (Collector::start().await, SmtpServer::start().await);
    let mut server = start(&collector, &smtp, &[]).await;
    let secret = "the-customers-own-secret";
    let baggage = format!("customer={secret}");
    publish(&server, &[("traceparent", RECORDED), ("baggage", &baggage)]).await;
    let mail = smtp.wait_for_mails(1).await.remove(0).text();
    let stored = server.sqlite3(".dump").await;
    assert!(stored.contains("traced or not"), "the dump has what is stored");
    assert!(server.stop().await.success(), "{}", server.log());
    let spans = format!("{:#?}", collector.spans());
    assert!(spans.contains("send mail"), "{spans}");
    for place in [&mail, &stored, &spans, &server.log()] {
        assert!(!place.contains(secret), "{place}");
    }
}
