//! One open consumer's life: from its opening until it is stopped, paused or lost.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tidings_domain::{
    Result,
    ports::{Consumer, Lease, Received, Settlement},
};
use tokio::time::{Instant, Sleep};

use super::{
    ConsumeLoop,
    attempts::{Next, decide},
    burial::{Burial, bury},
    call::{Finished, call},
    entry::{Entry, context},
    holding::Holding,
    renewal::{Renewal, Renewed},
    settlements::{Settled, Settlements},
};
use crate::{metrics::ConsumeMetrics, shutdown::Shutdown};

/// How long one call of `receive` waits for a first message.
const RECEIVE_WAIT: Duration = Duration::from_secs(20);

/// The most messages of one `receive`, and the bytes of bodies in hand at which no more are received: large messages
/// are held to the two together, small ones to the prefetch.
const MOST_RECEIVED: usize = 128;
const MOST_BYTES: usize = 16 * 1024 * 1024;

/// An empty answer within this time is one too early; so many in a row end the consumer.
const EMPTY_TOO_EARLY: Duration = Duration::from_millis(50);
const EMPTY_ANSWERS: u32 = 3;

/// Why a session ended.
pub(super) enum End {
    /// Its shutdown was requested.
    Stopped,
    /// Nothing could be tried, for this reason.
    Paused(String),
    /// The consumer ended, for this reason.
    Lost(String),
}

/// The state of one session.
pub(super) struct Session<'a> {
    of: &'a ConsumeLoop,
    metrics: &'a ConsumeMetrics,
    destination: &'a str,
    consumer: Arc<dyn Consumer>,
    holding: Holding,
    running: FuturesUnordered<BoxFuture<'static, Finished>>,
    running_alone: usize,
    burying: FuturesUnordered<BoxFuture<'static, Burial>>,
    settlements: Settlements,
    receiving: Option<(Instant, BoxFuture<'static, Result<Vec<Received>>>)>,
    empty_answers: u32,
    renewal: Renewal,
    stopping: Option<BoxFuture<'static, ()>>,
    ending: Option<End>,
    /// When a stop has to be over.
    deadline: Option<Instant>,
    /// Whether anything was dealt with: an outage before this session is over.
    pub(super) progress: bool,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        of: &'a ConsumeLoop,
        metrics: &'a ConsumeMetrics,
        destination: &'a str,
        consumer: Box<dyn Consumer>,
    ) -> Self {
        Self {
            of,
            metrics,
            destination,
            consumer: Arc::from(consumer),
            holding: Holding::default(),
            running: FuturesUnordered::new(),
            running_alone: 0,
            burying: FuturesUnordered::new(),
            settlements: Settlements::default(),
            receiving: None,
            empty_answers: 0,
            renewal: Renewal::new(of.bus.capabilities().lease),
            stopping: None,
            ending: None,
            deadline: None,
            progress: false,
        }
    }

    /// Takes and handles until it ends; then nothing of it is under way.
    pub(super) async fn run(&mut self, shutdown: &Shutdown) -> End {
        let stop = shutdown.requested();
        let timer = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(stop, timer);
        loop {
            let now = Instant::now();
            let ripe_at = self.begin_calls(now);
            self.begin_receiving(now);
            if self.stopping.is_none() {
                self.settlements.begin(&self.consumer);
            }
            if self.is_over(now) {
                return self.ending.take().unwrap_or(End::Stopped);
            }
            let wake_at = self.wake_at(ripe_at);
            set(timer.as_mut(), wake_at);
            tokio::select! {
                biased;
                () = &mut stop, if self.deadline.is_none() => {
                    self.deadline = Some(Instant::now() + shutdown.grace().mul_f64(0.8));
                    self.end(End::Stopped);
                }
                Some(finished) = self.running.next(), if !self.running.is_empty() => self.finished(finished),
                Some(burial) = self.burying.next(), if !self.burying.is_empty() => self.buried(burial),
                settled = self.settlements.ended() => self.settled(settled),
                renewed = self.renewal.ended() => self.renewed(renewed),
                () = wait_for(&mut self.stopping), if self.stopping.is_some() => {}
                received = wait_for_received(&mut self.receiving), if self.receiving.is_some() => self.received(received),
                () = &mut timer, if wake_at.is_some() => {
                    self.renewal.begin(|| self.holding.leases(), &self.consumer);
                }
            }
        }
    }

    /// Begins what has its turn; answers when a batch that still fills will be ripe.
    fn begin_calls(&mut self, now: Instant) -> Option<Instant> {
        if self.ending.is_some() {
            return None;
        }
        // What waits here comes again: whoever handled it now would do it for nothing.
        if self.consumer.is_lost() {
            self.end(End::Lost("the connection that handed out what waits is gone".to_owned()));
            return None;
        }
        self.holding.make_due(now);
        let settings = &self.of.settings;
        let most_alone = (settings.concurrency / 2).max(1);
        while self.running.len() < settings.concurrency {
            // What failed before leaves room for what is fresh, also for what is still to come.
            if self.running_alone < most_alone
                && let Some(entry) = self.holding.next_alone()
            {
                self.running_alone += 1;
                self.begin_call(vec![entry], true);
                continue;
            }
            let idle = self.running.is_empty();
            match self.holding.next_batch(settings.batch.max(1), idle, settings.linger, now) {
                Ok(entries) => self.begin_call(entries, false),
                Err(ripe_at) => return ripe_at,
            }
        }
        None
    }

    fn begin_call(&mut self, mut entries: Vec<Entry>, alone: bool) {
        for entry in &mut entries {
            entry.begin_span(&self.of.telemetry, self.destination);
        }
        self.running.push(call(Arc::clone(&self.of.handler), entries, alone));
    }

    fn begin_receiving(&mut self, now: Instant) {
        let room = self.of.settings.prefetch.saturating_sub(self.holding.len());
        let full = room == 0 || self.holding.bytes() >= MOST_BYTES;
        if self.receiving.is_some() || self.ending.is_some() || full {
            return;
        }
        let max = room.min(MOST_RECEIVED);
        let consumer = Arc::clone(&self.consumer);
        self.receiving = Some((now, async move { consumer.receive(max, RECEIVE_WAIT).await }.boxed()));
    }

    fn received(&mut self, (began, result): (Instant, Result<Vec<Received>>)) {
        let now = Instant::now();
        let received = match result {
            Ok(received) => received,
            Err(error) => return self.end(End::Lost(error.chain())),
        };
        if received.is_empty() {
            let early = now.duration_since(began) < EMPTY_TOO_EARLY;
            self.empty_answers = if early { self.empty_answers + 1 } else { 0 };
            if self.empty_answers >= EMPTY_ANSWERS {
                self.end(End::Lost("the queue's consumer is empty for good".to_owned()));
            }
            return;
        }
        self.empty_answers = 0;
        if self.of.telemetry.is_recording() {
            let producers: Vec<_> = received.iter().map(|r| context(&r.envelope.headers)).collect();
            drop(self.of.telemetry.receive_span(self.destination, &producers));
        }
        if self.holding.len() == 0 {
            self.renewal.starts(now);
        }
        for received in received {
            self.holding.take(Entry::new(received, now));
        }
    }

    fn finished(&mut self, finished: Finished) {
        self.metrics.call_took(finished.took);
        if finished.alone {
            self.running_alone -= 1;
        }
        let attempts: Vec<_> = finished.entries.iter().map(|entry| entry.state.attempts).collect();
        let next = decide(finished.outcome, &attempts, self.of.settings.attempts);
        let (mut done, mut again, mut failure) = (0, 0, None);
        let mut dead = Vec::new();
        for (mut entry, next) in finished.entries.into_iter().zip(next) {
            let lease = entry.lease();
            match next {
                // Someone else has it by now; what was done here is harmless.
                _ if self.renewal.is_needed() && !self.holding.holds(lease) => {}
                Next::Done => {
                    done += 1;
                    self.settle(lease, Settlement::Done);
                }
                Next::Retry(_) | Next::Alone(_) if self.ending.is_some() => self.release(lease),
                Next::Retry(detail) => {
                    entry.state.attempts += 1;
                    again += 1;
                    failure.get_or_insert(detail);
                    self.retry(entry);
                }
                Next::Alone(detail) => {
                    again += 1;
                    failure.get_or_insert(detail);
                    self.retry(entry);
                }
                Next::Dead(reject) => dead.push((entry, reject)),
                Next::Release(detail) => {
                    entry.fail("unavailable", &detail);
                    // What is not started is given back first.
                    self.end(End::Paused(detail));
                    self.release(lease);
                }
            }
        }
        self.metrics.done(done);
        self.metrics.retried(again);
        if let Some(detail) = failure {
            tracing::warn!(name = self.of.name, count = again, detail, "failed and will be tried again");
        }
        if !dead.is_empty() {
            self.burying.push(bury(self.of, dead));
        }
    }

    fn retry(&mut self, mut entry: Entry) {
        entry.note_retry();
        let wait = self.of.settings.backoff.wait(entry.state.attempts.max(1), &*self.of.entropy);
        self.holding.retry_at(Instant::now() + wait, entry);
    }

    fn buried(&mut self, burial: Burial) {
        match burial.result {
            Ok(()) => {
                for (lease, reason) in burial.entries {
                    self.metrics.dead_letter(reason);
                    self.settle(lease, Settlement::Done);
                }
            }
            Err(error) => {
                self.end(End::Paused(format!("the dead letters could not be written: {}", error.chain())));
                for (lease, _) in burial.entries {
                    self.release(lease);
                }
            }
        }
    }

    fn settle(&mut self, lease: Lease, settlement: Settlement) {
        self.holding.let_go(lease);
        self.settlements.push(lease, settlement);
    }

    fn release(&mut self, lease: Lease) {
        self.metrics.released(1);
        self.settle(lease, Settlement::Release);
    }

    fn settled(&mut self, settled: Settled) {
        self.progress |= settled.done > 0;
        self.metrics.leases_lost(settled.lost);
        self.metrics.settle_failures(settled.failed);
        if settled.lost > 0 {
            tracing::debug!(
                name = self.of.name,
                count = settled.lost,
                "leases were lost before they were settled"
            );
        }
        if let Some(error) = settled.error {
            self.end(End::Lost(format!("settlements failed: {}", error.chain())));
        }
    }

    fn renewed(&mut self, renewed: Renewed) {
        // What was settled meanwhile is no loss.
        let lost = renewed.lost.into_iter().filter(|lease| self.holding.let_go(*lease)).count();
        if lost > 0 {
            self.metrics.leases_lost(lost as u64);
            self.holding.drop_lost();
            tracing::warn!(
                name = self.of.name,
                count = lost,
                "leases were lost while their messages were in hand"
            );
        }
        if let Some(error) = renewed.failure {
            tracing::warn!(name = self.of.name, error = error.chain(), "leases could not be renewed");
        }
    }

    /// Stops taking and gives back what is not started; what runs is finished. The first reason stays.
    fn end(&mut self, end: End) {
        if self.ending.is_some() {
            return;
        }
        if let End::Paused(reason) = &end {
            self.of.part.waiting(reason.as_str());
        }
        self.receiving = None;
        let waiting = self.holding.give_up_waiting();
        if !matches!(end, End::Lost(_)) {
            // Stopped first, or the bus would hand out again at once what is released.
            let consumer = Arc::clone(&self.consumer);
            self.stopping = Some(async move { consumer.stop().await }.boxed());
            waiting.into_iter().for_each(|lease| self.release(lease));
        }
        self.ending = Some(end);
    }

    fn is_over(&self, now: Instant) -> bool {
        if self.ending.is_none() {
            return false;
        }
        let flushed = self.stopping.is_none() && self.settlements.is_idle();
        if self.running.is_empty() && self.burying.is_empty() && flushed {
            return true;
        }
        let late = self.deadline.is_some_and(|deadline| deadline <= now);
        if late {
            let (name, calls) = (self.of.name, self.running.len());
            tracing::warn!(
                name,
                calls,
                "the grace period is over: what still runs is dropped and comes again"
            );
        }
        late
    }

    /// When something is to be done even if nothing happens.
    fn wake_at(&self, ripe_at: Option<Instant>) -> Option<Instant> {
        let renew_at = self.renewal.due().filter(|_| self.holding.len() > 0);
        let due = self.ending.is_none().then(|| self.holding.next_due()).flatten();
        [ripe_at, renew_at, due, self.deadline].into_iter().flatten().min()
    }
}

fn set(timer: Pin<&mut Sleep>, at: Option<Instant>) {
    if let Some(at) = at
        && timer.deadline() != at
    {
        timer.reset(at);
    }
}

/// Waits for a future that is there and forgets it; for ever when there is none. Cancel-safe.
async fn wait_for<T>(future: &mut Option<BoxFuture<'static, T>>) -> T {
    let Some(pending) = future else { return std::future::pending().await };
    let output = pending.await;
    *future = None;
    output
}

async fn wait_for_received(
    receiving: &mut Option<(Instant, BoxFuture<'static, Result<Vec<Received>>>)>,
) -> (Instant, Result<Vec<Received>>) {
    let Some((began, future)) = receiving else { return std::future::pending().await };
    let (began, result) = (*began, future.await);
    *receiving = None;
    (began, result)
}
