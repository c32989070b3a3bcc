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
use serde_json::json;
use tidings_domain::{
    delivery::DeliveryState,
    ports::{Clock, MailErrorClass, MailPhase, Queue},
    trace_context::TraceContext,
    wire::change::{Publish, encode},
};
use tidings_runtime::telemetry::Telemetry;

use crate::{
    post_office::{Act, error},
    world::World,
};

#[derive(Clone, Debug, Default)]
struct Kept(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Kept {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_attempt_is_in_the_messages_trace_and_a_later_one_links_to_it() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let tracer = BoxedTracer::new(Box::new(provider.tracer("test")));
    let telemetry = Telemetry::new(tracer, NoopMeterProvider::new().meter("test"));
    let world = World::new();
    world.subscribe("ann@example.org").await;
    let later =
        error(MailPhase::RcptTo, MailErrorClass::Transient, 451, "4.2.0 <ann@example.org> greylisted");
    world.office.script("ann@example.org", [Act::RefuseBegin(later)], Act::Take);
    let mailer = world.start_with(Arc::new(world.office.clone()), telemetry);
    let change = world.change("x", json!({}));
    world.store(&change).await;
    let producer = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let trace = TraceContext::parse(Some(producer), None);
    let publish = Publish { at: world.clock.now(), round: 0, replay: None, trace };
    world.memory.publish_foreign(Queue::Mail, encode(&change, &publish, usize::MAX));
    let row = world.all_in(change.item.message.id.uuid(), DeliveryState::Sent).await.remove(0);
    mailer.stop().await;

    let spans = kept.0.lock().unwrap().clone();
    let named = |name: &str| spans.iter().find(|span| span.name == name).expect(name);
    let (process, plan) = (named("process tidings-mail"), named("INSERT deliveries"));
    let sends: Vec<_> = spans.iter().filter(|span| span.name == "send mail").collect();
    let [first, second] = sends[..] else { panic!("{} sends", sends.len()) };
    for span in [process, plan, first] {
        assert_eq!(span.span_context.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736", "one trace");
    }
    assert_eq!(process.parent_span_id.to_string(), "00f067aa0ba902b7");
    assert_eq!(plan.parent_span_id, process.span_context.span_id());
    assert_eq!(first.parent_span_id, process.span_context.span_id());
    let carried = format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{}-01", process.span_context.span_id());
    assert_eq!(row.trace.traceparent, Some(carried), "the row carries the process span");
    assert_ne!(second.span_context.trace_id(), first.span_context.trace_id());
    assert_eq!(second.links.iter().next().unwrap().span_context.span_id(), process.span_context.span_id());
    for span in &spans {
        assert!(!format!("{span:?}").contains("ann@"), "an address in a span");
    }
}
