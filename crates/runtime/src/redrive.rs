//! Redriving: marked dead letters of one source go through their service's own handler again. Nothing goes over the bus.

use std::{borrow::Cow, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use opentelemetry::{KeyValue, metrics::Counter};
use tidings_domain::{
    Result,
    backoff::Backoff,
    dead_letter::{DeadLetter, DeadLetterSource, reason},
    delivery::LeaseToken,
    id::new_v7,
    ports::{BusTopic, ClaimedDeadLetter, Clock, DeadLetters, Entropy, Queue},
};
use tokio::time::Instant;

use crate::{
    consume::{context, set_context},
    handler::{Handler, Reject, Verdict},
    health::Part,
    metrics,
    shutdown::Shutdown,
    supervise::panic_text,
    telemetry::Telemetry,
};

/// Limits and waits of a redrive loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedriveSettings {
    /// How often it looks for marked letters when there are none.
    pub interval: Duration,
    /// How long it holds what it claimed; a loop that dies loses its claim after that.
    pub lease: Duration,
    /// The most letters of one claim.
    pub batch: u32,
    /// The waits while nothing can be tried.
    pub probe: Backoff,
}

impl Default for RedriveSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            lease: Duration::from_secs(60),
            batch: 32,
            probe: Backoff { first: Duration::from_millis(500), most: Duration::from_secs(15) },
        }
    }
}

/// Claims marked dead letters of one source, runs [`Handler::redrive`] and settles them.
pub struct RedriveLoop {
    /// Its name in logs.
    pub name: &'static str,
    /// Whose letters.
    pub source: DeadLetterSource,
    /// The work.
    pub handler: Arc<dyn Handler>,
    /// Where the letters are.
    pub dead_letters: Arc<dyn DeadLetters>,
    /// The time of claims.
    pub clock: Arc<dyn Clock>,
    /// Jitter and lease tokens.
    pub entropy: Arc<dyn Entropy>,
    /// Limits and waits.
    pub settings: RedriveSettings,
    /// What readiness shows.
    pub part: Part,
    /// Spans and metrics.
    pub telemetry: Telemetry,
}

impl RedriveLoop {
    /// Claims, runs and settles until `shutdown`: Ok after that. One letter at a time; what is under way at the end is
    /// finished, what was claimed and not begun is claimed again by someone when its lease has run out.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        let redriven = metrics::counter(
            &self.telemetry.meter,
            metrics::DEAD_LETTERS_REDRIVEN,
            "dead letters taken up again",
        );
        let destination = destination(self.source, &self.telemetry);
        let mut failures = 0_u32;
        while !shutdown.is_requested() {
            let now = self.clock.now();
            let token = LeaseToken(new_v7(&*self.clock, &*self.entropy));
            let RedriveSettings { batch, lease, .. } = self.settings;
            let claim = self.dead_letters.claim(self.source, batch, token, now, lease);
            // After a full claim there may be more.
            let mut more = false;
            let waiting = match shutdown.cuts(claim).await {
                None => break,
                Some(Ok(claimed)) if claimed.is_empty() => {
                    failures = 0;
                    None
                }
                Some(Ok(claimed)) => {
                    more = claimed.len() >= batch as usize;
                    self.redrive_all(claimed, destination.as_deref(), &redriven, &shutdown).await
                }
                Some(Err(error)) => Some(error.to_string()),
            };
            let wait = match waiting {
                None if more => {
                    failures = 0;
                    self.part.up();
                    continue;
                }
                None => {
                    self.part.up();
                    let interval = Backoff { first: self.settings.interval, most: self.settings.interval };
                    interval.wait(1, &*self.entropy)
                }
                Some(reason) => {
                    failures = failures.saturating_add(1);
                    tracing::debug!(name = self.name, reason, "redriving waits");
                    self.part.degraded(reason);
                    self.settings.probe.wait(failures, &*self.entropy)
                }
            };
            shutdown.sleep(wait).await;
        }
        Ok(())
    }

    /// Redrives what was claimed; answers what it waits for when nothing can be tried.
    async fn redrive_all(
        &self,
        claimed: Vec<ClaimedDeadLetter>,
        destination: Option<&str>,
        redriven: &Counter<u64>,
        shutdown: &Shutdown,
    ) -> Option<String> {
        let began = Instant::now();
        for claimed in claimed {
            // What is not begun in time may be someone else's by the time that it would be settled.
            if shutdown.is_requested() || began.elapsed() > self.settings.lease.mul_f64(0.6) {
                return None;
            }
            let ClaimedDeadLetter { letter, token } = claimed;
            let (id, source) = (letter.id, letter.source.as_str());
            let ended = match self.redrive(&letter, destination).await {
                Ended::Unavailable(reason) => return Some(reason),
                Ended::Done => None,
                Ended::Failed(reject) => {
                    let (name, reason, detail) = (self.name, reject.reason, &*reject.detail);
                    tracing::warn!(name, letter = %id, reason, detail, "a redriven dead letter failed again");
                    Some(written_anew(letter, reject))
                }
            };
            let verdict = if ended.is_none() { "done" } else { "dead_letter" };
            redriven
                .add(1, &[KeyValue::new(metrics::SOURCE, source), KeyValue::new(metrics::VERDICT, verdict)]);
            if let Err(error) = self.dead_letters.settle(vec![(id, token, ended)]).await {
                // It stays marked and is redriven again: its handler is idempotent.
                tracing::warn!(name = self.name, letter = %id, error = error.chain(), "a redrive could not be settled");
                return Some(error.to_string());
            }
        }
        None
    }

    async fn redrive(&self, letter: &DeadLetter, destination: Option<&str>) -> Ended {
        let mut span = None;
        let mut carried = Cow::Borrowed(letter);
        if let Some(destination) = destination
            && self.telemetry.is_recording()
        {
            let id = letter.message_id.map(|id| id.to_string());
            let cause = context(&letter.headers);
            let begun = self.telemetry.later_process_span(destination, id.as_deref(), &cause);
            set_context(&mut carried.to_mut().headers, begun.trace());
            span = Some(begun);
        }
        let handling = AssertUnwindSafe(async { self.handler.redrive(&carried).await });
        let ended = match handling.catch_unwind().await {
            Ok(verdict) => ended(verdict),
            Err(panic) => {
                let detail = format!("the handler panicked: {}", panic_text(&*panic));
                Ended::Failed(Reject { reason: reason::PANIC, detail, message_id: None, topic: None })
            }
        };
        match (&ended, &mut span) {
            (Ended::Failed(reject), Some(span)) => span.fail(reject.reason, reject.detail.as_str()),
            (Ended::Unavailable(detail), Some(span)) => span.fail("unavailable", detail.as_str()),
            _ => {}
        }
        ended
    }
}

/// How the redrive of one letter ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Done,
    Failed(Reject),
    Unavailable(String),
}

fn ended(verdict: Verdict) -> Ended {
    match verdict {
        Verdict::Done => Ended::Done,
        Verdict::Retry { detail } => Ended::Failed(Reject {
            reason: reason::ATTEMPTS_EXHAUSTED,
            detail,
            message_id: None,
            topic: None,
        }),
        Verdict::DeadLetter(reject) => Ended::Failed(reject),
        Verdict::Unavailable { detail } => Ended::Unavailable(detail),
    }
}

/// The same row, unmarked, with what is wrong now.
fn written_anew(letter: DeadLetter, reject: Reject) -> DeadLetter {
    DeadLetter {
        reason: reject.reason.to_owned(),
        detail: reject.detail,
        message_id: reject.message_id.or(letter.message_id),
        topic: reject.topic.or(letter.topic),
        attempts: letter.attempts.saturating_add(1),
        marked_at: None,
        ..letter
    }
}

/// Where letters of `source` came from, as spans name it; deliveries have spans of their own.
fn destination(source: DeadLetterSource, telemetry: &Telemetry) -> Option<String> {
    match source {
        DeadLetterSource::Items => Some(telemetry.queue_name(Queue::Items)),
        DeadLetterSource::Mail => Some(telemetry.queue_name(Queue::Mail)),
        DeadLetterSource::Changes => Some(telemetry.topic_name(&BusTopic::Notifications)),
        DeadLetterSource::Deliveries => None,
    }
}
