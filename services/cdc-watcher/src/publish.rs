//! Publishing one batch of changes until every one of it is confirmed by the bus, or durable as a dead letter.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram},
};
use tidings_domain::{
    Error, ErrorKind, Result,
    backoff::Backoff,
    dead_letter::{DeadLetter, reason},
    item::Change,
    ports::{Bus, BusTopic, Captured, Clock, DeadLetters, Entropy, StreamHold},
    trace_context::TraceContext,
    wire::{self, change::Publish},
};
use tidings_runtime::{
    conventions,
    health::Part,
    metrics::{self, PublishDuration, Step, Waits},
    shutdown::Shutdown,
    telemetry::{self, Span, Telemetry},
};
use tokio::time::Instant;

use crate::{Context, letter};

/// Publishes batches. Several may be under way.
pub(crate) struct Publisher {
    bus: Arc<dyn Bus>,
    dead_letters: Arc<dyn DeadLetters>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    backoff: Backoff,
    telemetry: Telemetry,
    destination: String,
    published: Counter<u64>,
    republished: Counter<u64>,
    buried: Counter<u64>,
    lag: Histogram<f64>,
    duration: PublishDuration,
    reached_capture: Waits,
    reached_publish: Waits,
    part: Part,
    /// Batches that wait because something is away.
    in_trouble: AtomicUsize,
}

/// A change on its way. What is published again is the same record, made anew from the same values.
struct Record {
    change: Change,
    publish: Publish,
    /// The capture and, in it, the publish.
    spans: Option<(Span, Span)>,
}

/// Counts a batch as one in trouble for as long as it lives.
struct Trouble<'a>(&'a Publisher);

impl Publisher {
    pub(crate) fn new(context: &Context, part: Part) -> Self {
        let meter = &context.telemetry.meter;
        Self {
            bus: Arc::clone(&context.bus),
            dead_letters: Arc::clone(&context.dead_letters),
            clock: Arc::clone(&context.clock),
            entropy: Arc::clone(&context.entropy),
            backoff: context.settings.backoff(),
            telemetry: context.telemetry.clone(),
            destination: context.telemetry.topic_name(&BusTopic::Notifications),
            published: metrics::counter(meter, metrics::CHANGES_PUBLISHED, "changes published"),
            republished: metrics::counter(meter, metrics::CHANGES_REPUBLISHED, "publishes made again"),
            buried: metrics::counter(meter, metrics::DEAD_LETTERS_WRITTEN, "dead letters written"),
            lag: metrics::seconds(
                meter,
                metrics::CHANGES_LAG,
                "from a row's writing to its confirmed publish",
            ),
            duration: PublishDuration::new(&context.telemetry),
            reached_capture: Waits::of_step(meter, Step::Captured),
            reached_publish: Waits::of_step(meter, Step::Published),
            part,
            in_trouble: AtomicUsize::new(0),
        }
    }

    /// Publishes `batch`; true when all of it is confirmed or durable as dead letters. Failed publishes are made again
    /// with back-off, without a limit in number: the position waits. False when `shutdown` was requested meanwhile. An error
    /// is that of `hold`, which is looked at before each attempt and within it: the batch is another's to publish then.
    pub(crate) async fn publish_all(
        &self,
        batch: Vec<Captured>,
        hold: &dyn StreamHold,
        shutdown: &Shutdown,
    ) -> Result<bool> {
        let (mut records, mut letters) = self.records(batch);
        let mut failures = 0_u32;
        let mut trouble = None;
        loop {
            let mut failure = None;
            if !records.is_empty() {
                failure = self.publish_once(&mut records, &mut letters, hold, failures + 1).await?;
            }
            if !letters.is_empty()
                && let Err(error) = while_held(hold, self.bury(&mut letters)).await?
            {
                failure = Some(error);
            }
            let Some(error) = failure else {
                if let Some(trouble) = trouble {
                    self.out_of_trouble(trouble);
                }
                return Ok(true);
            };
            failures = failures.saturating_add(1);
            if trouble.is_none() && (failures > 1 || is_outage(&error)) {
                trouble = Some(self.trouble(&error));
            }
            let wait = self.backoff.wait(failures, &*self.entropy);
            let count = records.len() + letters.len();
            tracing::warn!(count, failures, ?wait, error = error.chain(), "changes could not be published");
            if !shutdown.sleep(wait).await {
                return Ok(false);
            }
        }
    }

    /// The records of a batch, and the dead letters of those rows that cannot be read.
    fn records(&self, batch: Vec<Captured>) -> (Vec<Record>, Vec<DeadLetter>) {
        let at = self.clock.now();
        let mut records = Vec::with_capacity(batch.len());
        let mut letters = Vec::new();
        for captured in batch {
            match captured.content {
                Ok(change) => records.push(self.record(change, at)),
                Err(unreadable) => letters.push(letter::undecodable(unreadable, at)),
            }
        }
        (records, letters)
    }

    fn record(&self, change: Change, at: tidings_domain::time::Timestamp) -> Record {
        let message = &change.item.message;
        self.reached_capture.ended(message.accepted_at, change.captured_at);
        let (mut spans, mut trace) = (None, message.trace.clone());
        if self.telemetry.is_recording() {
            let id = message.id.to_string();
            let capture = self.telemetry.capture_span("items", &id, &message.trace);
            let publish = self.telemetry.publish_span(&self.destination, Some(&id), capture.trace());
            trace = publish.trace().clone();
            spans = Some((capture, publish));
        }
        Record { change, publish: Publish { at, round: 0, replay: None, trace }, spans }
    }

    /// One publish of `records`: what is confirmed leaves them, what is refused becomes a letter. Answers the first
    /// failure of those that stay.
    async fn publish_once(
        &self,
        records: &mut Vec<Record>,
        letters: &mut Vec<DeadLetter>,
        hold: &dyn StreamHold,
        attempt: u32,
    ) -> Result<Option<Error>> {
        let max_bytes = self.bus.capabilities().max_publish_bytes;
        let envelope = |record: &Record| wire::change::encode(&record.change, &record.publish, max_bytes);
        let envelopes = records.iter().map(envelope).collect();
        let began = Instant::now();
        let answers = while_held(hold, self.bus.publish(&BusTopic::Notifications, envelopes)).await?;
        self.duration.took(began.elapsed());
        let mut answers = answers.into_iter();
        let now = self.clock.now();
        let (mut failure, mut published) = (None, 0);
        let mut oldest = std::time::Duration::ZERO;
        let sent = std::mem::take(records);
        for mut record in sent {
            let unanswered = || Err(Error::unknown("publish a change: the bus gave no answer for it"));
            match answers.next().unwrap_or_else(unanswered) {
                Ok(()) => {
                    published += 1;
                    self.reached_publish.ended(record.change.item.message.accepted_at, now);
                    oldest = oldest.max(now.since(record.change.item.stored_at));
                }
                Err(error) if error.kind == ErrorKind::Rejected => {
                    record.give_up(&error, attempt);
                    let detail = format!("the bus refuses the record: {}", error.context);
                    let refused = envelope(&record);
                    letters.push(letter::rejected(&record.change, refused, detail, attempt, now));
                }
                Err(error) => {
                    self.republished.add(1, &[KeyValue::new(metrics::KIND, error.kind.as_str())]);
                    record.note(&error);
                    failure.get_or_insert(error);
                    records.push(record);
                }
            }
        }
        if published > 0 {
            self.published.add(published, &[]);
            self.lag.record(oldest.as_secs_f64(), &[]);
        }
        Ok(failure)
    }

    async fn bury(&self, letters: &mut Vec<DeadLetter>) -> Result<()> {
        self.dead_letters.put(letters.clone()).await?;
        for letter in letters.drain(..) {
            let carried = |name: &str| letter.headers.get(name).map(String::as_str);
            let trace =
                TraceContext::parse(carried(wire::header::TRACEPARENT), carried(wire::header::TRACESTATE));
            let _lines = telemetry::enter(&trace);
            let (reason, detail) = (&*letter.reason, &*letter.detail);
            let id = letter.message_id.map(tracing::field::display);
            tracing::warn!(message_id = id, reason, detail, "a change is a dead letter");
            let labels =
                [KeyValue::new(metrics::SOURCE, "changes"), KeyValue::new(metrics::REASON, letter.reason)];
            self.buried.add(1, &labels);
        }
        Ok(())
    }

    fn trouble(&self, error: &Error) -> Trouble<'_> {
        self.in_trouble.fetch_add(1, Ordering::Relaxed);
        self.part.waiting(format!("publishing to {}: {error}", self.destination));
        Trouble(self)
    }

    fn out_of_trouble(&self, trouble: Trouble<'_>) {
        drop(trouble);
        if self.in_trouble.load(Ordering::Relaxed) == 0 {
            self.part.up();
        }
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        self.0.in_trouble.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Record {
    fn note(&mut self, error: &Error) {
        if let Some((_, publish)) = &mut self.spans {
            let error = KeyValue::new(conventions::ERROR_TYPE, error.kind.as_str());
            publish.event(conventions::EVENT_RETRY, vec![error]);
        }
    }

    fn give_up(&mut self, error: &Error, attempts: u32) {
        if let Some((_, publish)) = &mut self.spans {
            let attributes = vec![
                KeyValue::new(conventions::REASON, reason::REJECTED),
                KeyValue::new(conventions::ATTEMPTS, i64::from(attempts)),
            ];
            publish.event(conventions::EVENT_DEAD_LETTER, attributes);
            publish.fail(error.kind.as_str(), error.context.as_str());
        }
    }
}

/// Does `work` while the stream is held, which is looked at before each step of it: a process that was stopped in the middle
/// and thaws goes no further. What was on its way to the bus by then may still arrive, as with every crash.
async fn while_held<T>(hold: &dyn StreamHold, work: impl Future<Output = T>) -> Result<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| match hold.check() {
        Ok(()) => work.as_mut().poll(context).map(Ok),
        Err(error) => Poll::Ready(Err(error)),
    })
    .await
}

/// Whether nothing could be tried: also where our binding is missing.
fn is_outage(error: &Error) -> bool {
    error.is_outage() || error.kind == ErrorKind::NotFound
}
