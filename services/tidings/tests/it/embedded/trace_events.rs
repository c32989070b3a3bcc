//! What went wrong on the way is told by events of the spans, in words and counts.

use reqwest::{Method, header};
use tidings_servers::smtp::{Act, Rule, SmtpServer, Step};

use crate::harness::{
    Server,
    collector::{Collector, Span},
};

const EMAIL: &str = "reader@example.com";

async fn start(collector: &Collector, smtp: &SmtpServer) -> Server {
    let url = smtp.url();
    let server = Server::start_with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("SMTP_URL", &url),
        ("TIDINGS_MAILER_RETRY_FIRST_S", "1"),
        ("TIDINGS_MAILER_RETRY_MOST_S", "1"),
    ])
    .await;
    server.subscribe_confirmed(&[EMAIL]).await;
    server
}

/// The spans of attempts to mail a message, in the order of the attempts.
async fn attempts(collector: &Collector, id: &str, count: usize) -> Vec<Span> {
    let of_it = |span: &Span| {
        span.name == "send mail"
            && span.attributes.get("messaging.message.id").is_some_and(|message| message == id)
    };
    let spans = collector.wait_until(|spans| spans.iter().filter(|span| of_it(span)).count() >= count).await;
    let mut spans: Vec<Span> = spans.into_iter().filter(of_it).collect();
    spans.sort_by_key(|span| span.attributes["tidings.delivery.attempt"].parse::<u32>().unwrap());
    assert_eq!(spans.len(), count, "{spans:#?}");
    spans
}

/// A span's events in short.
fn events(span: &Span) -> Vec<String> {
    let short = |(name, attributes): &(String, std::collections::BTreeMap<String, String>)| {
        let said = attributes.iter().map(|(name, value)| format!(" {name}={value}"));
        format!("{name}{}", said.collect::<String>())
    };
    span.events.iter().map(short).collect()
}

/// Nothing of the mail or of whom it is for, nor what its server said, is anywhere in the spans.
fn nothing_personal(collector: &Collector, text: &str) {
    let all = format!("{:#?}", collector.spans());
    for personal in [EMAIL, text, "greylisted", "no such user"] {
        assert!(!all.contains(personal), "{personal:?} in {all}");
    }
}

#[tokio::test]
async fn a_refusal_for_now_an_unknown_outcome_and_a_refusal_for_good() {
    let (collector, smtp) = (Collector::start().await, SmtpServer::start().await);
    let server = start(&collector, &smtp).await;

    smtp.once(Step::Rcpt, Act::Reply("450 4.2.1 greylisted"));
    let id = server.publish("the words of the first").await;
    assert_eq!(server.finished(&id).await["state"], "done");
    let spans = attempts(&collector, &id, 2).await;
    assert_eq!(events(&spans[0]), ["tidings.retry tidings.attempts=1"]);
    assert_eq!(spans[0].status, "rcpt 450", "the code, and not the server's text");
    assert_eq!(events(&spans[1]), [""; 0]);
    // A later attempt is a trace of its own that links to the first one's cause.
    assert_ne!(spans[1].trace, spans[0].trace);
    assert_eq!(spans[1].links, [(spans[0].trace.clone(), spans[0].parent.clone())]);

    smtp.once(Step::Message, Act::Close);
    let id = server.publish("the words of the second").await;
    assert_eq!(server.finished(&id).await["state"], "done");
    let spans = attempts(&collector, &id, 2).await;
    assert_eq!(events(&spans[0]), ["tidings.unknown tidings.attempts=1"]);

    smtp.rule(Rule::new(Step::Rcpt, Act::Reply("550 5.1.1 no such user")));
    let id = server.publish("the words of the third").await;
    assert_eq!(server.finished(&id).await["state"], "dead_letter");
    let spans = attempts(&collector, &id, 1).await;
    assert_eq!(events(&spans[0]), ["tidings.dead_letter tidings.attempts=1 tidings.reason=refused"]);
    assert_eq!(spans[0].attributes["error.type"], "recipient", "{:#?}", spans[0]);
    nothing_personal(&collector, "the words of");
}

async fn publish_under_a_key(server: &Server, text: &str) {
    let request = server.request(Method::POST, "/v1/topics/messages/messages");
    let request = request.header(header::CONTENT_TYPE, "text/plain").header("idempotency-key", "the same");
    let accepted = server.ok(request.body(text.to_owned())).await;
    server.finished(accepted["id"].as_str().unwrap()).await;
}

#[tokio::test]
async fn a_message_that_cannot_be_stored() {
    let (collector, smtp) = (Collector::start().await, SmtpServer::start().await);
    let mut server = start(&collector, &smtp).await;
    // The same key with other words is told apart at the door, unless the door has forgotten: then by the row.
    publish_under_a_key(&server, "the words that stand").await;
    assert!(server.stop().await.success(), "{}", server.log());
    server.restart().await;
    publish_under_a_key(&server, "the words that come later").await;
    let spans = collector.wait_until(|spans| spans.iter().any(|span| !span.events.is_empty())).await;
    let process = spans.iter().find(|span| !span.events.is_empty()).unwrap();
    assert_eq!(
        (process.service.as_str(), process.name.as_str()),
        ("tidings-subscriber", "process tidings-items")
    );
    assert_eq!(events(process), ["tidings.dead_letter tidings.attempts=1 tidings.reason=conflict"]);
    nothing_personal(&collector, "the words that");
    assert!(server.stop().await.success(), "{}", server.log());
}
