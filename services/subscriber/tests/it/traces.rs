use std::sync::{Arc, Mutex};

use opentelemetry::{
    global::BoxedTracer,
    metrics::{MeterProvider as _, noop::NoopMeterProvider},
    trace::TracerProvider as _,
};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{SdkTracerProvider, SpanData, SpanExporter},
};
use tidings_domain::{ports::Queue, trace_context::TraceContext};
use tidings_runtime::telemetry::Telemetry;

use crate::setup::{Setup, message};

#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_carries_the_context_of_its_process_span_and_the_insert_is_its_child() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let mut setup = Setup::new();
    let tracer = BoxedTracer::new(Box::new(provider.tracer("test")));
    setup.telemetry = Telemetry::new(tracer, NoopMeterProvider::new().meter("test"));
    let producer = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let mut sent = message(1, "text");
    sent.trace = TraceContext::parse(Some(producer), None);
    setup.publish(std::slice::from_ref(&sent)).await;
    setup.start();
    setup.until_empty(Queue::Items).await;
    setup.stop().await;

    let spans = kept.0.lock().unwrap().clone();
    let named = |name: &str| spans.iter().find(|span| span.name == name).expect("a span of that name");
    let (receive, process) = (named("receive tidings-items"), named("process tidings-items"));
    let insert = named("INSERT items");
    for span in [receive, process, insert] {
        assert_eq!(span.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736", "one trace");
    }
    assert_eq!(process.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(insert.parent_span_id, process.span_context.span_id());
    let item = setup.item(sent.id).await.unwrap();
    let expected = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", process.span_context.span_id());
    assert_eq!(item.message.trace.traceparent, Some(expected));
}
