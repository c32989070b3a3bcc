use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use opentelemetry::{
    global::BoxedTracer,
    metrics::{MeterProvider as _, noop::NoopMeterProvider},
    trace::{SpanKind, Status, TracerProvider as _},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tidings_domain::{dead_letter::reason, wire::header};
use tidings_runtime::telemetry::Telemetry;
use tokio::task::JoinSet;

use crate::doubles::{Script, Setup, dead, done, retry};

#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

const PRODUCERS: [&str; 2] = [
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "00-5bf92f3577b34da6a3ce929d0e0e4736-10f067aa0ba902b7-01",
];

fn telemetry(kept: &Kept) -> (Telemetry, SdkTracerProvider) {
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let tracer = BoxedTracer::new(Box::new(provider.tracer("test")));
    let meter = NoopMeterProvider::new().meter("test");
    (Telemetry::new(tracer, meter).named("tidings", "sqlite"), provider)
}

fn send(setup: &Setup, text: &str, producer: &str) {
    let mut envelope = crate::doubles::envelope(text);
    envelope.headers = BTreeMap::from([(header::TRACEPARENT.to_owned(), producer.to_owned())]);
    setup.bus.send_envelope(envelope);
}

fn named(spans: &[SpanData], name: &str) -> Vec<SpanData> {
    spans.iter().filter(|span| span.name == name).cloned().collect()
}

#[tokio::test(start_paused = true)]
async fn each_message_has_a_process_span_under_its_own_producer() {
    let kept = Kept::default();
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    let (telemetry, _provider) = telemetry(&kept);
    setup.telemetry = telemetry;
    send(&setup, "a", PRODUCERS[0]);
    send(&setup, "b", PRODUCERS[1]);
    let handler = Script::each(|text| if text == "b" { dead(reason::CONFLICT) } else { done() });
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(2).await;
    setup.stop(&mut tasks).await;

    let spans = kept.0.lock().unwrap().clone();
    let process = named(&spans, "process tidings-items");
    assert_eq!(process.len(), 2);
    let seen = handler.received.lock().unwrap().clone();
    for (received, producer) in seen.iter().zip(PRODUCERS) {
        let carried = &received.envelope.headers[header::TRACEPARENT];
        let span = process
            .iter()
            .find(|span| carried.contains(&span.span_context.span_id().to_string()))
            .expect("the handler sees its process span");
        assert_eq!(span.span_kind, SpanKind::Consumer);
        assert!(producer.contains(&span.span_context.trace_id().to_string()));
        assert!(producer.contains(&span.parent_span_id.to_string()));
        assert_eq!(span.links.len(), 1);
        assert!(producer.contains(&span.links[0].span_context.span_id().to_string()));
        let has = |name: &str, value: &str| {
            span.attributes.iter().any(|a| a.key.as_str() == name && a.value.as_str() == value)
        };
        assert!(has("messaging.system", "sqlite") && has("messaging.operation.type", "process"));
        assert!(has("messaging.destination.name", "tidings-items"));
    }
    let failed: Vec<_> = process.iter().filter(|span| matches!(span.status, Status::Error { .. })).collect();
    assert_eq!(failed.len(), 1);

    let receive = named(&spans, "receive tidings-items");
    assert_eq!(receive.len(), 1);
    assert_eq!(receive[0].links.len(), 2);

    let letter = &setup.letters.all()[0];
    assert_eq!(letter.headers[header::TRACEPARENT], PRODUCERS[1], "a letter keeps what came");
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_and_the_dead_letter_are_events_of_the_span() {
    let kept = Kept::default();
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    let (telemetry, _provider) = telemetry(&kept);
    (setup.telemetry, setup.settings.attempts) = (telemetry, 3);
    send(&setup, "a secret", PRODUCERS[0]);
    let handler = Script::each(|_| retry());
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    setup.stop(&mut tasks).await;

    let process = named(&kept.0.lock().unwrap(), "process tidings-items");
    let [span] = process.as_slice() else { panic!("one span for all attempts: {process:#?}") };
    let events: Vec<String> = span
        .events
        .iter()
        .map(|event| {
            let said = event.attributes.iter().map(|a| format!(" {}={}", a.key, a.value));
            format!("{}{}", event.name, said.collect::<String>())
        })
        .collect();
    let expected = [
        "tidings.retry tidings.attempts=1",
        "tidings.retry tidings.attempts=2",
        "tidings.dead_letter tidings.reason=attempts_exhausted tidings.attempts=3",
    ];
    assert_eq!(events, expected);
}

#[tokio::test(start_paused = true)]
async fn what_whoever_began_the_trace_does_not_record_is_recorded_nowhere() {
    let unrecorded = PRODUCERS.map(|producer| producer.replace("-01", "-00"));
    let kept = Kept::default();
    let (mut setup, mut tasks) = (Setup::new(), JoinSet::new());
    let (telemetry, _provider) = telemetry(&kept);
    setup.telemetry = telemetry;
    for producer in &unrecorded {
        send(&setup, "a", producer);
    }
    let handler = Script::each(|_| done());
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(2).await;
    send(&setup, "b", &unrecorded[0]);
    send(&setup, "c", PRODUCERS[1]);
    setup.bus.until_done(4).await;
    setup.stop(&mut tasks).await;

    let received = handler.received.lock().unwrap().clone();
    let carried: Vec<_> =
        received.iter().map(|it| it.envelope.headers[header::TRACEPARENT].clone()).collect();
    assert_eq!(&carried[..2], &unrecorded, "what came is passed on, with its decision");
    let spans = kept.0.lock().unwrap().clone();
    // What is done once for many links to those alone that are recorded.
    let links = |span: &SpanData| -> Vec<String> {
        span.links.iter().map(|link| link.span_context.trace_id().to_string()).collect()
    };
    let recorded = &PRODUCERS[1][3..35];
    assert_eq!(spans.len(), 2, "a receive and a process of the one: {spans:#?}");
    assert!(spans.iter().all(|span| links(span) == [recorded]), "{spans:#?}");
}

#[tokio::test(start_paused = true)]
async fn without_spans_what_came_is_passed_on() {
    let (setup, mut tasks) = (Setup::new(), JoinSet::new());
    send(&setup, "a", PRODUCERS[0]);
    let handler = Script::each(|_| done());
    setup.start(&handler, &mut tasks);
    setup.bus.until_done(1).await;
    assert_eq!(handler.received.lock().unwrap()[0].envelope.headers[header::TRACEPARENT], PRODUCERS[0]);
    setup.stop(&mut tasks).await;
}
