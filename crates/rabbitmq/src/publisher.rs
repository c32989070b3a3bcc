//! Publishing: each topic has a lane with a few channels of its own, and each channel carries one window of publishes at a time.
//!
//! A window is published whole, then its confirms are waited for, all of them, before anything of it is answered. Two things ask
//! for that. The client library hands a returned message to whichever confirm comes next, so that only within a window that is
//! complete it is certain whose it was. And a publish that names a missing exchange closes its channel and makes everything on
//! it unknown: so no topic shares a channel with another. Meanwhile other windows of the lane are under way, and what comes
//! gathers for the next, so that confirms are pipelined and the broker sees few channels.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tidings_domain::{Error, Result, ports::BusTopic, wire::Envelope};
use tokio::{
    sync::{Notify, Semaphore, oneshot},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    failure, link::Link, message::Outgoing, metrics::Metrics, names::Names, standing::Standing, usage::Usage,
    window::Window,
};

/// Publishes of one window, and therefore of one call that cross in one go.
pub(crate) const MAX_WINDOW: usize = 128;

/// Windows of one topic that may be under way at once.
const MAX_CHANNELS: usize = 4;

/// A lane's channel that nothing came for in this time is closed.
const IDLE: Duration = Duration::from_secs(30);

/// What becomes of a request is decided once: by the task that begins to send it, or by the caller who gives it up before.
const WAITING: u8 = 0;
const BEGUN: u8 = 1;
const GIVEN_UP: u8 = 2;

/// Publishes for all topics.
pub(crate) struct Publisher {
    pub(crate) link: Arc<Link>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) usage: Arc<Usage>,
    pub(crate) metrics: Metrics,
    pub(crate) confirm_timeout: Duration,
    names: Arc<Names>,
    /// As many as may be unconfirmed.
    permits: Semaphore,
    unconfirmed: usize,
    lanes: Mutex<BTreeMap<BusTopic, Arc<Lane>>>,
    tracker: TaskTracker,
    stop: CancellationToken,
    closing: CancellationToken,
}

/// What the publisher is made of, beside its limits.
pub(crate) struct Parts {
    pub(crate) link: Arc<Link>,
    pub(crate) standing: Arc<Standing>,
    pub(crate) usage: Arc<Usage>,
    pub(crate) metrics: Metrics,
    pub(crate) names: Arc<Names>,
    pub(crate) tracker: TaskTracker,
    /// Ends the tasks.
    pub(crate) stop: CancellationToken,
    /// No publish is taken any more.
    pub(crate) closing: CancellationToken,
}

impl Publisher {
    pub(crate) fn new(parts: Parts, confirm_timeout: Duration, unconfirmed: usize) -> Arc<Self> {
        let Parts { link, standing, usage, metrics, names, tracker, stop, closing } = parts;
        let unconfirmed = unconfirmed.max(1);
        let permits = Semaphore::new(unconfirmed);
        let lanes = Mutex::default();
        Arc::new(Self {
            link,
            standing,
            usage,
            metrics,
            confirm_timeout,
            names,
            permits,
            unconfirmed,
            lanes,
            tracker,
            stop,
            closing,
        })
    }

    /// The most that goes in one window.
    fn window(&self) -> usize {
        MAX_WINDOW.min(self.unconfirmed)
    }

    /// See [`tidings_domain::ports::Bus::publish`].
    pub(crate) async fn publish(self: &Arc<Self>, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        if self.closing.is_cancelled() {
            return failure::each(&failure::closed(), batch.len());
        }
        let deadline = Instant::now() + self.confirm_timeout;
        let mut answers: Vec<Option<Result<()>>> = Vec::with_capacity(batch.len());
        let mut entries = Vec::with_capacity(batch.len());
        for envelope in batch {
            match Outgoing::new(envelope) {
                Ok(outgoing) => {
                    entries.push(outgoing);
                    answers.push(None);
                }
                Err(error) => {
                    self.metrics.failed(error.kind);
                    answers.push(Some(Err(error)));
                }
            }
        }
        let mut waiting = self.send(topic, entries, deadline);
        let mut answered = VecDeque::new();
        for ticket in &mut waiting {
            answered.extend(ticket.answer(deadline, self).await);
        }
        let place = |answer: Option<Result<()>>| {
            answer.or_else(|| answered.pop_front()).unwrap_or_else(|| Err(failure::closed()))
        };
        answers.into_iter().map(place).collect()
    }

    /// Puts entries into the topic's lane, as many requests as windows are needed.
    fn send(
        self: &Arc<Self>,
        topic: &BusTopic,
        mut entries: Vec<Outgoing>,
        deadline: Instant,
    ) -> Vec<Ticket> {
        let mut tickets = Vec::new();
        if entries.is_empty() {
            return tickets;
        }
        let lane = self.lane(topic);
        while !entries.is_empty() {
            let rest = entries.split_off(entries.len().min(self.window()));
            let (answer, answered) = oneshot::channel();
            let state = Arc::new(AtomicU8::new(WAITING));
            tickets.push(Ticket { count: entries.len(), state: Arc::clone(&state), answered });
            let request = Request { entries: std::mem::replace(&mut entries, rest), deadline, answer, state };
            if lane.push(request) {
                self.tracker.spawn(Arc::clone(self).work(Arc::clone(&lane)));
            }
        }
        tickets
    }

    fn lane(&self, topic: &BusTopic) -> Arc<Lane> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lane) = lanes.get(topic) {
            return Arc::clone(lane);
        }
        let lane = Arc::new(Lane {
            topic: topic.clone(),
            exchange: self.names.exchange(topic),
            inner: Mutex::default(),
            arrived: Notify::new(),
        });
        lanes.insert(topic.clone(), Arc::clone(&lane));
        lane
    }

    /// One of a lane's channels: sends window after window until nothing comes any more.
    async fn work(self: Arc<Self>, lane: Arc<Lane>) {
        let mut window = Window::new(Arc::clone(&self), lane.topic.clone(), lane.exchange.clone());
        let working = async {
            while let Some(count) = lane.wait(self.window()).await {
                // Only what is about to be sent is begun: until then its callers may give it up as not sent.
                let ready = window.ready().await;
                let Ok(permits) = self.permits.acquire_many(count as u32).await else { return };
                window.send(ready, in_time(lane.take(count), &self.metrics)).await;
                drop(permits);
            }
        };
        if self.stop.run_until_cancelled(working).await.is_none() {
            lane.leave();
        }
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if lane.is_deserted() && lanes.get(&lane.topic).is_some_and(|standing| Arc::ptr_eq(standing, &lane)) {
            lanes.remove(&lane.topic);
        }
    }

    /// Waits until nothing is unconfirmed, as long as a confirm may take.
    pub(crate) async fn flushed(&self) {
        let all = u32::try_from(self.unconfirmed).unwrap_or(u32::MAX);
        let _ = timeout(self.confirm_timeout, self.permits.acquire_many(all)).await;
    }
}

/// What a caller waits by.
struct Ticket {
    count: usize,
    state: Arc<AtomicU8>,
    answered: oneshot::Receiver<Vec<Result<()>>>,
}

impl Ticket {
    async fn answer(&mut self, deadline: Instant, publisher: &Publisher) -> Vec<Result<()>> {
        let error = match timeout_at(deadline, &mut self.answered).await {
            Ok(Ok(answers)) => return answers,
            // Its task ended with the bus.
            Ok(Err(_)) if self.give_up() => failure::closed(),
            Ok(Err(_)) => Error::unknown("publish: the bus was closed before the confirm"),
            Err(_) if self.give_up() => publisher.link.why_not().unwrap_or_else(|| {
                Error::unavailable("publish: too many publishes are unconfirmed, nothing was sent")
            }),
            Err(_) => Error::unknown("publish: the broker did not confirm in time"),
        };
        (0..self.count).for_each(|_| publisher.metrics.failed(error.kind));
        failure::each(&error, self.count)
    }

    /// Whether it was given up before anything of it was sent.
    fn give_up(&self) -> bool {
        self.state.compare_exchange(WAITING, GIVEN_UP, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Publishes that go in one window.
pub(crate) struct Request {
    pub(crate) entries: Vec<Outgoing>,
    /// Until when its caller waits.
    deadline: Instant,
    pub(crate) answer: oneshot::Sender<Vec<Result<()>>>,
    state: Arc<AtomicU8>,
}

impl Request {
    /// Whether it may be sent: its caller still waits.
    fn begin(&self) -> bool {
        !self.answer.is_closed()
            && self.state.compare_exchange(WAITING, BEGUN, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }
}

/// Those whose time is not over. A process that stood still goes on where it was, and what its callers would have given up
/// meanwhile is nobody's any more: it is not sent.
fn in_time(requests: Vec<Request>, metrics: &Metrics) -> Vec<Request> {
    let now = Instant::now();
    let (in_time, late): (Vec<_>, Vec<_>) = requests.into_iter().partition(|request| request.deadline > now);
    for request in late {
        let error = Error::unavailable("publish: its time was over before it could be sent");
        let answers = failure::each(&error, request.entries.len());
        answers.iter().for_each(|_| metrics.failed(error.kind));
        // A caller who has gone needs no answer.
        let _ = request.answer.send(answers);
    }
    in_time
}

/// The way to one topic.
struct Lane {
    topic: BusTopic,
    exchange: String,
    inner: Mutex<Inner>,
    arrived: Notify,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Request>,
    /// Tasks, and those of them that wait for work.
    tasks: usize,
    idle: usize,
}

impl Lane {
    /// Adds a request; answers whether another task is needed for it, which is then counted.
    fn push(&self, request: Request) -> bool {
        let mut inner = self.lock();
        inner.waiting.push_back(request);
        if inner.idle == 0 && inner.tasks < MAX_CHANNELS {
            inner.tasks += 1;
            return true;
        }
        drop(inner);
        self.arrived.notify_one();
        false
    }

    /// Waits for requests; answers how many publishes of them go together, or none when the task has to end.
    async fn wait(&self, most: usize) -> Option<usize> {
        let deadline = Instant::now() + IDLE;
        let mut idle = false;
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            {
                let mut inner = self.lock();
                let count = inner.together(most);
                if count > 0 {
                    inner.idle -= usize::from(idle);
                    return Some(count);
                }
                if Instant::now() >= deadline {
                    inner.idle -= usize::from(idle);
                    inner.tasks -= 1;
                    return None;
                }
                if !idle {
                    idle = true;
                    inner.idle += 1;
                }
            }
            let _ = timeout_at(deadline, arrived).await;
        }
    }

    /// Takes requests of at most `most` publishes that may still be sent.
    fn take(&self, most: usize) -> Vec<Request> {
        let mut inner = self.lock();
        let mut requests = Vec::new();
        let mut room = most;
        while let Some(next) = inner.waiting.front()
            && next.entries.len() <= room
            && let Some(request) = inner.waiting.pop_front()
        {
            if request.begin() {
                room -= request.entries.len();
                requests.push(request);
            }
        }
        let more = !inner.waiting.is_empty();
        drop(inner);
        if more {
            self.arrived.notify_one();
        }
        requests
    }

    /// A task ends with the bus: what waits is given up by its callers.
    fn leave(&self) {
        let mut inner = self.lock();
        inner.tasks = inner.tasks.saturating_sub(1);
        inner.waiting.clear();
    }

    fn is_deserted(&self) -> bool {
        let inner = self.lock();
        inner.tasks == 0 && inner.waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// How many publishes at the front go together: whole requests, at least one.
    fn together(&self, most: usize) -> usize {
        let mut count = 0;
        for request in &self.waiting {
            if count + request.entries.len() > most {
                break;
            }
            count += request.entries.len();
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
    use tidings_domain::ErrorKind;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_its_caller_would_have_given_up_while_the_process_stood_still_is_not_sent() {
        let metrics = Metrics::new(&NoopMeterProvider::new().meter("test"));
        let request = |time: Duration| {
            let entry = Outgoing::new(Envelope { headers: BTreeMap::new(), ..Envelope::default() }).unwrap();
            let (answer, answered) = oneshot::channel();
            let state = Arc::new(AtomicU8::new(BEGUN));
            (Request { entries: vec![entry], deadline: Instant::now() + time, answer, state }, answered)
        };
        let ((late, answered), (fresh, _waits)) =
            (request(Duration::from_secs(8)), request(Duration::from_secs(60)));
        tokio::time::advance(Duration::from_secs(20)).await;
        assert_eq!(in_time(vec![late, fresh], &metrics).len(), 1);
        let answers = answered.await.unwrap();
        assert_eq!(answers[0].as_ref().unwrap_err().kind, ErrorKind::Unavailable, "nothing was sent");
    }
}
