use std::sync::{Arc, Mutex};

use opentelemetry::{
    global::BoxedTracer,
    metrics::{MeterProvider as _, noop::NoopMeterProvider},
    trace::{Event, SpanKind, TracerProvider as _},
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tidings_domain::{Error, trace_context::TraceContext};
use tidings_runtime::telemetry::Telemetry;

use crate::setup::{Setup, message};

#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl Kept {
    pub(crate) fn spans(&self) -> Vec<SpanData> {
        self.0.lock().unwrap().clone()
    }
}

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

pub(crate) const ROW: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[tokio::test(start_paused = true)]
async fn a_record_carries_its_publish_span_under_the_capture_under_the_row() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let mut setup = Setup::new();
    let tracer = BoxedTracer::new(Box::new(provider.tracer("test")));
    setup.telemetry = Telemetry::new(tracer, NoopMeterProvider::new().meter("test"));
    let mut stored = message(1, "text");
    stored.trace = TraceContext::parse(Some(ROW), None);
    setup.insert(stored);
    setup.start();
    setup.until_confirmed().await;
    let published = setup.take_published().await;
    setup.stop().await;

    let spans = kept.spans();
    let named = |name: &str| spans.iter().find(|span| span.name == name).expect("a span of that name");
    let (capture, publish) = (named("capture items"), named("publish tidings-notifications"));
    assert_eq!(capture.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(publish.parent_span_id, capture.span_context.span_id());
    assert_eq!(publish.span_kind, SpanKind::Producer);
    let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", publish.span_context.span_id());
    assert_eq!(published[0].headers["traceparent"], expected);
}

#[tokio::test(start_paused = true)]
async fn publishes_made_again_and_dead_letters_are_events() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let mut setup = Setup::new();
    let tracer = BoxedTracer::new(Box::new(provider.tracer("test")));
    setup.telemetry = Telemetry::new(tracer, NoopMeterProvider::new().meter("test"));
    setup.bus.will_fail("text", [Error::unavailable("away"), Error::rejected("a secret of the bus")]);
    setup.insert(message(1, "text"));
    setup.start();
    setup.until_confirmed().await;
    setup.stop().await;

    let spans = kept.spans();
    let publish = spans.iter().find(|span| span.name == "publish tidings-notifications").unwrap();
    let said = |event: &Event| {
        let attributes = event.attributes.iter().map(|a| format!(" {}={}", a.key, a.value));
        format!("{}{}", event.name, attributes.collect::<String>())
    };
    let events: Vec<String> = publish.events.iter().map(said).collect();
    let expected = [
        "tidings.retry error.type=unavailable",
        "tidings.dead_letter tidings.reason=rejected tidings.attempts=2",
    ];
    assert_eq!(events, expected);
}

#[tokio::test(start_paused = true)]
async fn without_spans_the_row_s_context_is_passed_on() {
    let mut setup = Setup::new();
    let mut stored = message(1, "text");
    stored.trace = TraceContext::parse(Some(ROW), None);
    setup.insert(stored);
    setup.start();
    setup.until_confirmed().await;
    assert_eq!(setup.take_published().await[0].headers["traceparent"], ROW);
    setup.stop().await;
}
