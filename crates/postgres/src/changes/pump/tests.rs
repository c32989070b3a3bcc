//! Pump and line over a scripted transport, in paused time.

use std::sync::Mutex;

use async_trait::async_trait;
use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use tidings_domain::{
    ports::{ChangeStream as _, Dependency as _, DependencyState},
    time::Timestamp,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::advance,
};

use super::*;
use crate::changes::{
    SlotStream,
    ledger::Progress,
    line::{Limits, Want},
    lsn::Lsn,
    pgoutput::tests::recorded,
    reader::Source,
    state::StreamHealth,
    transport::Event,
};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// What the server sends, and what it is told.
struct Scripted {
    events: UnboundedReceiver<Result<Event, Failure>>,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    reported: Lsn,
    read: usize,
    is_closed: bool,
}

#[async_trait]
impl Transport for Scripted {
    async fn next(&mut self, events: &mut Vec<Event>, most: usize) -> Result<(), Failure> {
        let first = self.events.recv().await.ok_or_else(|| Failure::away("the script is over"))??;
        events.push(first);
        while events.len() < most
            && let Ok(next) = self.events.try_recv()
        {
            events.push(next?);
        }
        self.told.lock().unwrap().read += events.len();
        Ok(())
    }

    fn report(&mut self, applied: Lsn) {
        self.told.lock().unwrap().reported = applied;
    }

    fn reported(&mut self) -> Lsn {
        self.told.lock().unwrap().reported
    }

    async fn close(self: Box<Self>) {
        self.told.lock().unwrap().is_closed = true;
    }
}

struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1)
    }
}

struct Stage {
    server: UnboundedSender<Result<Event, Failure>>,
    told: Arc<Mutex<Told>>,
    line: Arc<Line>,
    health: Arc<StreamHealth>,
    stream: SlotStream,
}

/// A stream whose pump runs; what it confirms is recorded where `records`.
fn stage(records: bool) -> Stage {
    let limits = Limits { read_ahead: 100, silence: 10 * SECOND, stall: 60 * SECOND };
    let (server, events) = unbounded_channel();
    let told = Arc::new(Mutex::new(Told::default()));
    let health = Arc::new(StreamHealth::new());
    let line = Arc::new(Line::new(Progress::default(), limits, Arc::clone(&health)));
    let source = Source { system_id: "7".to_owned(), timeline: 1, history: Vec::new() };
    let table = u32::from_be_bytes(recorded()[1][1..5].try_into().unwrap());
    let reader = Reader::new(source, table, "tidings-heartbeat".to_owned(), Progress::default());
    let pump = Pump {
        line: Arc::clone(&line),
        transport: Box::new(Scripted { events, told: Arc::clone(&told) }),
        reader,
        clock: Arc::new(Still),
        gauges: Arc::new(Gauges::new(&NoopMeterProvider::new().meter("test"))),
        status_interval: SECOND,
    };
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(pump.run());
    if records {
        let line = Arc::clone(&line);
        tasks.spawn(async move {
            loop {
                match line.want() {
                    Want::Nothing => line.wanted.notified().await,
                    Want::Now => {}
                    Want::Later(when) => tokio::time::sleep_until(when).await,
                }
                let (progress, version) = line.to_record();
                line.has_recorded(progress, version);
            }
        });
    }
    let stream = SlotStream::new(Arc::clone(&line));
    Stage { server, told, line, health, stream }
}

impl Stage {
    fn send(&self, event: Event) {
        let _nobody_reads = self.server.send(Ok(event));
    }

    /// The recorded row, as often as this, in one transaction whose commit stands at `commit`.
    fn transaction(&self, commit: u64, rows: usize) {
        let recorded = recorded();
        self.send(Event::Begin { commit: Lsn(commit), xid: 7 });
        self.send(Event::Data(recorded[1].clone().into()));
        (0..rows).for_each(|_| self.send(Event::Data(recorded[2].clone().into())));
        self.send(Event::Commit { end: Lsn(commit + 10) });
    }

    fn keep_alive(&self, wal_end: u64) {
        self.send(Event::KeepAlive { wal_end: Lsn(wal_end), reply_requested: false });
    }

    fn reported(&self) -> u64 {
        self.told.lock().unwrap().reported.0
    }

    async fn take(&mut self, count: usize) -> Vec<tidings_domain::ports::Captured> {
        let mut all = Vec::new();
        while all.len() < count {
            all.extend(self.stream.next(count - all.len(), SECOND).await.unwrap());
        }
        all
    }

    async fn error(&mut self) -> Error {
        loop {
            if let Err(error) = self.stream.next(10, SECOND).await {
                return error;
            }
        }
    }
}

/// Lets tasks run while time passes in small steps.
async fn pass(time: Duration) {
    for _ in 0..time.as_millis().div_ceil(100) {
        advance(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_ends_of_what_is_wholly_confirmed_are_reported() {
    let mut stage = stage(true);
    stage.transaction(100, 2);
    stage.transaction(200, 1);
    let captured = stage.take(3).await;
    stage.keep_alive(300);
    pass(3 * SECOND).await;
    assert_eq!(stage.reported(), 0);
    stage.stream.confirm(captured[0].position).await.unwrap();
    pass(3 * SECOND).await;
    assert_eq!(stage.reported(), 0);
    stage.stream.confirm(captured[1].position).await.unwrap();
    pass(3 * SECOND).await;
    assert_eq!(stage.reported(), 110, "the end, and not the commit's own place");
    stage.stream.confirm(captured[2].position).await.unwrap();
    pass(3 * SECOND).await;
    assert_eq!(stage.reported(), 300, "and the emptiness behind it");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_reported_before_it_is_recorded() {
    let mut stage = stage(false);
    stage.transaction(100, 1);
    let captured = stage.take(1).await;
    let position = captured[0].position;
    let error = stage.stream.confirm(position).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unknown, "{}", error.chain());
    stage.keep_alive(150);
    pass(2 * SECOND).await;
    assert_eq!(stage.reported(), 0);
    let (progress, version) = stage.line.to_record();
    stage.line.has_recorded(progress, version);
    pass(2 * SECOND).await;
    assert_eq!(stage.reported(), 150);
    stage.stream.confirm(position).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_confirm_waits_for_its_record_unless_one_was_just_made() {
    let mut stage = stage(false);
    stage.transaction(100, 4);
    let captured = stage.take(4).await;
    let line = Arc::clone(&stage.line);
    let record = async || {
        line.wanted.notified().await;
        assert_eq!(line.want(), Want::Now);
        let (progress, version) = line.to_record();
        line.has_recorded(progress, version);
    };
    let (first, ()) = tokio::join!(stage.stream.confirm(captured[0].position), record());
    first.unwrap();
    let began = Instant::now();
    // Nobody records, and nobody waits: sooner where nothing else is under way.
    stage.stream.confirm(captured[1].position).await.unwrap();
    assert_eq!(stage.line.want(), Want::Later(began + 200 * MILLISECOND));
    stage.stream.confirm(captured[3].position).await.unwrap();
    assert_eq!(stage.line.want(), Want::Later(began + 50 * MILLISECOND));
    stage.stream.confirm(captured[2].position).await.unwrap();
    assert_eq!(stage.line.want(), Want::Later(began + 50 * MILLISECOND));
    let (progress, version) = line.to_record();
    line.has_recorded(progress, version);
    assert_eq!(stage.line.want(), Want::Nothing);
    stage.stream.confirm(captured[3].position).await.unwrap();
    assert_eq!(stage.line.want(), Want::Nothing);
}

#[tokio::test(start_paused = true)]
async fn silence_ends_the_stream_and_any_frame_is_life() {
    let mut stage = stage(true);
    for round in 0..5 {
        stage.keep_alive(round);
        assert!(stage.stream.next(1, 9 * SECOND).await.unwrap().is_empty());
    }
    // What the server says of our reports is one as well.
    for _ in 0..5 {
        stage.line.is_alive();
        assert!(stage.stream.next(1, 9 * SECOND).await.unwrap().is_empty());
    }
    let error = stage.error().await;
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.context.contains("silent"), "{}", error.chain());
    assert!(stage.told.lock().unwrap().is_closed);
    assert_eq!(stage.health.state(), DependencyState::Down(error.chain()));
    assert_eq!(stage.error().await.kind, ErrorKind::Unavailable, "it stays so");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stood_still_hands_out_nothing_more() {
    let mut stage = stage(true);
    stage.transaction(100, 5);
    let captured = stage.take(2).await;
    // Frozen: time has passed, and no task of ours ran meanwhile. The server had sent more before.
    stage.transaction(200, 1);
    let hold = stage.stream.hold();
    hold.check().unwrap();
    stage.line.stand_still(60 * SECOND);
    // Whoever is about to publish what was handed out before asks first, and may be the first to run.
    let error = hold.check().unwrap_err();
    assert_eq!(error.kind, ErrorKind::LeaseLost, "{}", error.chain());
    let error = stage.stream.next(10, SECOND).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::LeaseLost, "{}", error.chain());
    assert_eq!(stage.stream.confirm(captured[1].position).await.unwrap_err().kind, ErrorKind::LeaseLost);
    pass(SECOND).await;
    assert!(stage.told.lock().unwrap().is_closed);
    assert_eq!(stage.reported(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_confirms_gives_the_slot_back() {
    let mut stage = stage(true);
    stage.transaction(100, 3);
    let captured = stage.take(2).await;
    for round in 0..12 {
        stage.keep_alive(round);
        assert_eq!(stage.stream.next(0, SECOND).await.unwrap().len(), 0);
        pass(4 * SECOND).await;
    }
    stage.stream.confirm(captured[0].position).await.unwrap();
    for round in 0..12 {
        stage.keep_alive(round);
        pass(4 * SECOND).await;
    }
    assert!(!stage.told.lock().unwrap().is_closed, "something was confirmed meanwhile");
    for round in 0..5 {
        stage.keep_alive(round);
        pass(4 * SECOND).await;
    }
    assert!(stage.told.lock().unwrap().is_closed);
    let error = stage.error().await;
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.context.contains("nothing was confirmed"), "{}", error.chain());
}

#[tokio::test(start_paused = true)]
async fn what_is_read_and_not_taken_is_no_stall() {
    let mut stage = stage(true);
    stage.transaction(100, 3);
    for round in 0..30 {
        stage.keep_alive(round);
        pass(4 * SECOND).await;
    }
    assert_eq!(stage.take(3).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn reading_ahead_is_bounded_and_goes_on() {
    let mut stage = stage(true);
    for number in 1..=2000 {
        stage.transaction(number * 100, 1);
    }
    pass(SECOND).await;
    let read = stage.told.lock().unwrap().read;
    assert!(read <= 100 * 4 + EVENTS, "{read} events were read ahead");
    for _ in 0..2000 {
        let captured = stage.take(1).await;
        stage.stream.confirm(captured[0].position).await.unwrap();
    }
    pass(2 * SECOND).await;
    assert_eq!(stage.reported(), 200_010);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_stream_reports_what_is_confirmed_and_ends() {
    let mut stage = stage(true);
    stage.transaction(100, 1);
    stage.transaction(200, 1);
    let captured = stage.take(2).await;
    stage.stream.confirm(captured[0].position).await.unwrap();
    let Stage { stream, told, .. } = stage;
    drop(stream);
    pass(SECOND).await;
    let told = told.lock().unwrap();
    assert_eq!((told.reported, told.is_closed), (Lsn(110), true));
}

#[tokio::test(start_paused = true)]
async fn each_end_has_its_kind() {
    for (text, kind) in [
        ("publication \"tidings\" does not exist (SQLSTATE 42704)", ErrorKind::Gap),
        ("cannot read from logical replication slot \"tidings\" (SQLSTATE 55000)", ErrorKind::Gap),
        ("terminating connection (SQLSTATE 57P01)", ErrorKind::Unavailable),
        ("no rights (SQLSTATE 42501)", ErrorKind::Misconfigured),
        ("no code", ErrorKind::Unavailable),
    ] {
        let mut stage = stage(true);
        stage.transaction(100, 1);
        stage.server.send(Err(Failure::of_server(text))).unwrap();
        assert_eq!(stage.error().await.kind, kind, "{text}");
    }
    let mut stage = stage(true);
    stage.send(Event::Data(bytes::Bytes::from_static(b"Zx")));
    let error = stage.error().await;
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(matches!(stage.health.state(), DependencyState::Down(why) if why.contains("unknown kind 'Z'")));
}
