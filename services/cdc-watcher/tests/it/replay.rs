use std::{sync::Arc, time::Duration};

use opentelemetry::{
    global::BoxedTracer,
    metrics::{MeterProvider as _, noop::NoopMeterProvider},
    trace::TracerProvider as _,
};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tidings_cdc_watcher::replay::{Ended, Progress, Recipients, Replayer, Report, Selection};
use tidings_domain::{
    Error,
    id::MessageId,
    notification::{Cursor, Notification, Plan},
    ports::Clock as _,
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
    wire::{Envelope, change},
};
use tidings_memory::{Part, SeededEntropy};
use tidings_runtime::{shutdown::Shutdown, telemetry::Telemetry};
use uuid::Uuid;

use crate::{
    faults::FaultyBus,
    setup::{Setup, ids, message},
    traces::{Kept, ROW},
};

const PATIENCE: Duration = Duration::from_secs(60);

fn replayer(setup: &Setup) -> Replayer {
    Replayer {
        items: setup.memory.items(),
        deliveries: setup.memory.deliveries(),
        bus: Arc::<FaultyBus>::clone(&setup.bus),
        clock: Arc::new(setup.memory.clock()),
        entropy: Arc::new(SeededEntropy::new(3)),
        telemetry: setup.telemetry.clone(),
        patience: PATIENCE,
    }
}

fn everything() -> Selection {
    Selection::Stored { topic: None, since: None, until: None }
}

fn these(numbers: &[u128]) -> Selection {
    Selection::Ids(numbers.iter().map(|number| MessageId(Uuid::from_u128(*number))).collect())
}

async fn replay(setup: &Setup, selection: Selection, recipients: Recipients) -> Report {
    replayer(setup).replay(selection, recipients, &mut |_| {}, &Shutdown::default()).await
}

/// The progress of one that ends with everything.
async fn finished(setup: &Setup, selection: Selection, recipients: Recipients) -> Progress {
    let report = replay(setup, selection, recipients).await;
    assert!(matches!(report.ended, Ended::Finished), "{report:?}");
    assert_eq!(report.progress.waiting_for, None);
    report.progress
}

async fn recovered(setup: &Setup) -> Progress {
    let report = replayer(setup).recover(&mut |_| {}, &Shutdown::default()).await;
    assert!(matches!(report.ended, Ended::Finished), "{report:?}");
    report.progress
}

/// Notes that an item was expanded in a round.
async fn expanded(setup: &Setup, number: u128, round: u32) {
    let at = setup.memory.clock().now();
    let notification = Notification {
        item: MessageId(Uuid::from_u128(number)),
        round,
        topic: TopicName::messages(),
        replay: None,
        captured_at: at,
        published_at: at,
    };
    let plan =
        Plan { notification, from: Cursor::Start, page: vec![], to: Cursor::Finished, claim: None, at };
    setup.memory.deliveries().plan(vec![plan]).await.unwrap();
}

/// Of each record: the item, the round, the replay.
fn rounds(published: &[Envelope]) -> Vec<(u128, u32, Option<String>)> {
    let read = |envelope| {
        let notification = change::decode(envelope, Timestamp::default()).unwrap().notification;
        (notification.item.uuid().as_u128(), notification.round, notification.replay)
    };
    published.iter().map(read).collect()
}

fn record(envelope: &Envelope) -> change::ChangeRecord {
    serde_json::from_slice(&envelope.body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_replay_is_round_0_under_an_id_of_its_own() {
    let setup = Setup::new();
    setup.insert_all([1, 2]);
    expanded(&setup, 1, 0).await;
    let first = finished(&setup, everything(), Recipients::NotYetMailed).await;
    assert_eq!((first.published, first.skipped, first.refused), (2, 0, 0));
    let replay = first.replay.clone();
    assert!(replay.is_some());
    let published = setup.take_published().await;
    assert_eq!(rounds(&published), [(2, 0, replay.clone()), (1, 0, replay.clone())]);
    let id = Uuid::from_u128(2);
    let event = format!("replay:{}:{id}", replay.unwrap());
    let newest = record(&published[0]);
    assert_eq!((&newest.event_id, &newest.sequence_number), (&event, &event));
    assert_eq!(newest.new_image.unwrap().message.as_deref(), Some("text 2"));
    assert!(newest.size_bytes > 0 && newest.captured_at.is_some() && newest.published_at.is_some());

    tokio::time::sleep(Duration::from_secs(1)).await;
    let second = finished(&setup, everything(), Recipients::NotYetMailed).await;
    assert_ne!(first.replay, second.replay);
}

#[tokio::test(start_paused = true)]
async fn time_and_topic_select_and_ids_do() {
    let setup = Setup::new();
    let mut times = Vec::new();
    for number in 1..=4 {
        times.push(setup.memory.clock().now());
        let mut one = message(number, "text");
        if number == 3 {
            one.topic = TopicName::parse("orders").unwrap();
        }
        setup.insert(one);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let stored = |topic: Option<&str>, since, until| Selection::Stored {
        topic: topic.map(|topic| TopicName::parse(topic).unwrap()),
        since,
        until,
    };
    let selections = [
        (stored(None, Some(times[1]), None), vec![4, 3, 2]),
        (stored(None, Some(times[1]), Some(times[3])), vec![3, 2]),
        (stored(Some("orders"), None, None), vec![3]),
        (stored(Some("orders"), Some(times[3]), None), vec![]),
        (these(&[4, 2, 4]), vec![2, 4]),
    ];
    for (selection, expected) in selections {
        let progress = finished(&setup, selection.clone(), Recipients::NotYetMailed).await;
        assert_eq!(ids(&setup.take_published().await), expected, "{selection:?}");
        assert_eq!(progress.published, expected.len() as u64);
    }
}

#[tokio::test(start_paused = true)]
async fn ids_without_an_item_are_named_and_the_others_go() {
    let setup = Setup::new();
    setup.insert_all(1..=250);
    let asked: Vec<u128> = (1..=260).collect();
    let progress = finished(&setup, these(&asked), Recipients::NotYetMailed).await;
    assert_eq!(progress.published, 250);
    let missing: Vec<_> = progress.missing.iter().map(|id| id.uuid().as_u128()).collect();
    assert_eq!(missing, (251..=260).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn to_everyone_is_each_item_s_next_round() {
    let setup = Setup::new();
    setup.insert_all([1, 2, 3]);
    expanded(&setup, 1, 0).await;
    expanded(&setup, 3, 0).await;
    expanded(&setup, 3, 1).await;
    let progress = finished(&setup, everything(), Recipients::Everyone).await;
    let replay = progress.replay;
    assert!(replay.is_some());
    let mut published = rounds(&setup.take_published().await);
    published.sort_unstable();
    assert_eq!(published, [(1, 1, replay.clone()), (2, 0, replay.clone()), (3, 2, replay)]);
}

#[tokio::test(start_paused = true)]
async fn a_recovery_publishes_what_was_never_notified_as_a_first_publish() {
    let setup = Setup::new();
    setup.insert_all(1..=350);
    for number in (2..=350).step_by(2) {
        expanded(&setup, number, 0).await;
    }
    let progress = recovered(&setup).await;
    assert_eq!((progress.replay, progress.published, progress.skipped), (None, 175, 175));
    let published = setup.take_published().await;
    let mut seen = rounds(&published);
    seen.sort_unstable();
    let expected: Vec<_> = (1..=350).step_by(2).map(|number| (number, 0, None)).collect();
    assert_eq!(seen, expected);
    let events: Vec<_> = published.iter().map(|envelope| record(envelope).event_id).collect();
    assert!(events.iter().all(|event| event.starts_with("recover:")), "{events:?}");
    // Again before anything was expanded: the same events once more, which is one expansion.
    assert_eq!(recovered(&setup).await.published, 175);
    let again: Vec<_> =
        setup.take_published().await.iter().map(|envelope| record(envelope).event_id).collect();
    assert_eq!(again, events);
}

#[tokio::test(start_paused = true)]
async fn what_is_inserted_meanwhile_neither_loops_nor_hides_another() {
    let setup = Setup::new();
    setup.insert_all(1..=1000);
    let mut next = 1000;
    let mut pages = 0;
    let mut insert = |_: &Progress| {
        pages += 1;
        next += 1;
        setup.insert(message(next, "text of another"));
    };
    let shutdown = Shutdown::default();
    let replayer = replayer(&setup);
    let report = replayer.replay(everything(), Recipients::NotYetMailed, &mut insert, &shutdown).await;
    assert!(matches!(report.ended, Ended::Finished), "{report:?}");
    assert_eq!(pages, 10);
    let mut published = ids(&setup.take_published().await);
    published.sort_unstable();
    let old: Vec<_> = published.iter().copied().filter(|number| *number <= 1000).collect();
    assert_eq!(old, (1..=1000).collect::<Vec<_>>(), "each once");
    assert_eq!(report.progress.published, published.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_publish_whose_answer_is_lost_is_made_again_with_the_same_record() {
    let setup = Setup::new();
    setup.insert_all([1, 2]);
    *setup.bus.lost_answers.lock().unwrap() = 1;
    let progress = finished(&setup, everything(), Recipients::Everyone).await;
    assert_eq!(progress.published, 2);
    let published = setup.take_published().await;
    assert_eq!(ids(&published), [2, 1, 2], "only what had no answer");
    assert_eq!(published[0], published[2]);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_and_told() {
    let setup = Setup::new();
    setup.insert_all([1]);
    for part in [Part::Store, Part::Bus] {
        setup.memory.set_away(part, true);
        let mut waits = Vec::new();
        let mut told = |progress: &Progress| {
            waits.push(progress.waiting_for.is_some());
            if waits.len() == 5 {
                setup.memory.set_away(part, false);
            }
        };
        let shutdown = Shutdown::default();
        let report =
            replayer(&setup).replay(everything(), Recipients::NotYetMailed, &mut told, &shutdown).await;
        assert!(matches!(report.ended, Ended::Finished), "{report:?}");
        assert_eq!(report.progress.published, 1);
        assert_eq!(waits, [true, true, true, true, true, false, false], "five waits, their end, the page");
    }
}

#[tokio::test(start_paused = true)]
async fn patience_ends_and_what_was_published_is_told() {
    let setup = Setup::new();
    setup.insert_all(1..=150);
    let mut told = |progress: &Progress| {
        if progress.published == 100 {
            setup.memory.set_away(Part::Bus, true);
        }
    };
    let began = tokio::time::Instant::now();
    let report = replayer(&setup)
        .replay(everything(), Recipients::NotYetMailed, &mut told, &Shutdown::default())
        .await;
    match report.ended {
        Ended::GaveUp(error) => assert!(error.is_outage(), "{error}"),
        ended => panic!("{ended:?}"),
    }
    assert_eq!(report.progress.published, 100);
    assert!(report.progress.reached.is_some() && report.progress.waiting_for.is_some());
    assert!((PATIENCE..2 * PATIENCE).contains(&began.elapsed()), "of virtual time: {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_wish_to_stop_ends_a_wait() {
    let setup = Setup::new();
    setup.insert_all([1]);
    for part in [Part::Store, Part::Bus] {
        setup.memory.set_away(part, true);
        let shutdown = Shutdown::default();
        let mut told = |_: &Progress| shutdown.request();
        let report =
            replayer(&setup).replay(everything(), Recipients::NotYetMailed, &mut told, &shutdown).await;
        assert!(matches!(report.ended, Ended::Stopped), "{report:?}");
        assert_eq!(report.progress.published, 0);
        setup.memory.set_away(part, false);
    }
    assert!(setup.take_published().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_the_bus_refuses_is_counted_and_passed() {
    let setup = Setup::new();
    setup.insert_all([1, 2, 3]);
    setup.bus.will_fail("text 2", [Error::rejected("too large")]);
    let progress = finished(&setup, everything(), Recipients::NotYetMailed).await;
    assert_eq!((progress.published, progress.refused), (2, 1));
    assert_eq!(ids(&setup.take_published().await), [3, 1]);
}

#[tokio::test(start_paused = true)]
async fn each_publish_is_a_trace_of_its_own_that_links_to_the_item_s() {
    let kept = Kept::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
    let mut setup = Setup::new();
    let mut stored = message(1, "text");
    stored.trace = TraceContext::parse(Some(ROW), None);
    setup.insert(stored);
    finished(&setup, everything(), Recipients::NotYetMailed).await;
    assert_eq!(setup.take_published().await[0].headers["traceparent"], ROW, "without spans it is passed on");

    let tracer = BoxedTracer::new(Box::new(provider.tracer("test")));
    setup.telemetry = Telemetry::new(tracer, NoopMeterProvider::new().meter("test"));
    finished(&setup, everything(), Recipients::NotYetMailed).await;
    let spans = kept.spans();
    assert_eq!(spans.len(), 1);
    let span = &spans[0];
    assert_eq!(
        (&*span.name, span.parent_span_id.to_string()),
        ("publish tidings-notifications", "0".repeat(16))
    );
    let links: Vec<_> = span.links.iter().map(|link| link.span_context.trace_id().to_string()).collect();
    assert_eq!(links, [&ROW[3..35]]);
    let context = &span.span_context;
    let expected = format!("00-{}-{}-01", context.trace_id(), context.span_id());
    assert_eq!(setup.take_published().await[0].headers["traceparent"], expected);
    assert!(!expected.contains(&ROW[3..35]));
}
