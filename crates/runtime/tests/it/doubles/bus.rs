use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    ports::{Bus, BusCapabilities, BusTopic, Consumer, Lease, Queue, Received, Settlement},
    wire::Envelope,
};
use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// One queue in memory. Its log says in order what was asked of it: `open`, `stop`, `done x`, `release x`.
#[derive(Clone)]
pub(crate) struct TestBus {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
    lease: Option<Duration>,
}

#[derive(Default)]
pub(crate) struct Inner {
    ready: VecDeque<Envelope>,
    held: BTreeMap<Lease, (Envelope, Instant)>,
    pub(crate) log: Vec<String>,
    pub(crate) extended: u64,
    epoch: u64,
    tags: u64,
    /// What the next calls of each kind fail with.
    pub(crate) open_errors: VecDeque<Error>,
    pub(crate) receive_errors: VecDeque<Error>,
    pub(crate) settle_errors: VecDeque<Error>,
    /// Answers of `receive` that are empty at once.
    pub(crate) empty_answers: u32,
    /// Consumers up to this one have lost their connection, and nothing but the asked-for answer says so.
    lost_epoch: u64,
}

struct TestConsumer {
    bus: TestBus,
    epoch: u64,
    prefetch: usize,
    stopped: Mutex<bool>,
}

impl TestBus {
    pub(crate) fn new(lease: Option<Duration>) -> Self {
        Self { inner: Arc::default(), changed: Arc::default(), lease }
    }

    pub(crate) fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// Puts messages with these texts into the queue; the text is also the header `id` of the log.
    pub(crate) fn send<'a>(&self, texts: impl IntoIterator<Item = &'a str>) {
        for text in texts {
            self.send_envelope(envelope(text));
        }
    }

    pub(crate) fn send_envelope(&self, envelope: Envelope) {
        self.inner().ready.push_back(envelope);
        self.changed.notify_waiters();
    }

    pub(crate) fn log(&self) -> Vec<String> {
        self.inner().log.clone()
    }

    /// How often the log says `what`.
    pub(crate) fn count(&self, what: &str) -> usize {
        self.inner().log.iter().filter(|line| line.starts_with(what)).count()
    }

    /// Messages in the queue that nobody holds.
    pub(crate) fn ready(&self) -> usize {
        self.inner().ready.len()
    }

    /// Ends the connection of the consumer that is open: what it holds is in the queue again.
    pub(crate) fn disconnect(&self) {
        let mut inner = self.inner();
        inner.lost_epoch = inner.epoch;
        let held = std::mem::take(&mut inner.held);
        inner.ready.extend(held.into_values().map(|(envelope, _)| envelope));
    }

    /// Gives everything that is held to someone else.
    pub(crate) fn take_over(&self) {
        self.inner().held.clear();
    }

    /// Waits until `condition` holds, for an hour of virtual time at most.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&Inner) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if condition(&self.inner()) {
                    return;
                }
                changed.await;
            }
        };
        let hours = Duration::from_secs(7200);
        assert!(timeout(hours, waiting).await.is_ok(), "never: {what}; the log: {:?}", self.log());
    }

    /// Waits until `count` messages were settled as done.
    pub(crate) async fn until_done(&self, count: usize) {
        self.until(&format!("{count} done"), |inner| {
            inner.log.iter().filter(|line| line.starts_with("done")).count() >= count
        })
        .await;
    }

    fn note(&self, line: String) {
        self.inner().log.push(line);
        self.changed.notify_waiters();
    }

    fn until_of(&self, now: Instant) -> Instant {
        now + self.lease.unwrap_or(Duration::from_secs(1_000_000))
    }
}

/// An envelope whose body and native id are `text`.
pub(crate) fn envelope(text: &str) -> Envelope {
    Envelope { body: text.to_owned().into(), native_id: Some(text.to_owned()), ..Envelope::default() }
}

fn text(envelope: &Envelope) -> String {
    String::from_utf8_lossy(&envelope.body).into_owned()
}

#[async_trait]
impl Bus for TestBus {
    async fn publish(&self, _: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        batch.into_iter().map(|_| Err(Error::rejected("this double only hands out"))).collect()
    }

    async fn consume(&self, _: Queue, prefetch: usize) -> Result<Box<dyn Consumer>> {
        if let Some(error) = self.inner().open_errors.pop_front() {
            return Err(error);
        }
        self.note("open".to_owned());
        let epoch = {
            let mut inner = self.inner();
            inner.epoch += 1;
            inner.epoch
        };
        Ok(Box::new(TestConsumer { bus: self.clone(), epoch, prefetch, stopped: Mutex::new(false) }))
    }

    fn capabilities(&self) -> BusCapabilities {
        BusCapabilities {
            max_batch: 10,
            max_publish_bytes: 262_144,
            lease: self.lease,
            release_is_uncounted: true,
        }
    }
}

impl TestConsumer {
    fn hand_out(&self, max: usize) -> Vec<Received> {
        let now = Instant::now();
        let mut inner = self.bus.inner();
        let expired: Vec<_> =
            inner.held.iter().filter(|(_, (_, until))| *until <= now).map(|(lease, _)| *lease).collect();
        for lease in expired {
            let (envelope, _) = inner.held.remove(&lease).unwrap();
            inner.log.push(format!("expired {}", text(&envelope)));
            inner.ready.push_back(envelope);
        }
        let mut received = Vec::new();
        while received.len() < max && inner.held.len() < self.prefetch && !*self.stopped.lock().unwrap() {
            let Some(envelope) = inner.ready.pop_front() else { break };
            inner.tags += 1;
            let lease = Lease { epoch: self.epoch, tag: inner.tags };
            inner.held.insert(lease, (envelope.clone(), self.bus.until_of(now)));
            received.push(Received { envelope, returns: 0, lease });
        }
        received
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.bus.inner().held.values().map(|(_, until)| *until).min()
    }
}

#[async_trait]
impl Consumer for TestConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Received>> {
        let end = Instant::now() + wait;
        loop {
            let changed = self.bus.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut inner = self.bus.inner();
                if let Some(error) = inner.receive_errors.pop_front() {
                    return Err(error);
                }
                if inner.empty_answers > 0 {
                    inner.empty_answers -= 1;
                    return Ok(Vec::new());
                }
            }
            let received = self.hand_out(max);
            if !received.is_empty() || Instant::now() >= end {
                return Ok(received);
            }
            let next = self.next_expiry().map_or(end, |expiry| expiry.min(end));
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn extend(&self, leases: &[Lease]) -> Vec<Result<()>> {
        let until = self.bus.until_of(Instant::now());
        let mut inner = self.bus.inner();
        inner.extended += 1;
        let extend = |lease| match inner.held.get_mut(lease) {
            Some(held) => {
                held.1 = until;
                Ok(())
            }
            None => Err(Error::lease_lost("extend")),
        };
        leases.iter().map(extend).collect()
    }

    fn is_lost(&self) -> bool {
        self.epoch <= self.bus.inner().lost_epoch
    }

    async fn settle(&self, settlements: Vec<(Lease, Settlement)>) -> Vec<Result<()>> {
        tokio::task::yield_now().await;
        let mut answers = Vec::new();
        for (lease, settlement) in settlements {
            let mut inner = self.bus.inner();
            if let Some(error) = inner.settle_errors.pop_front() {
                answers.push(Err(error));
                continue;
            }
            let Some((envelope, _)) = inner.held.remove(&lease) else {
                inner.log.push("stale".to_owned());
                answers.push(Err(Error::lease_lost("settle")));
                continue;
            };
            let name = text(&envelope);
            if settlement == Settlement::Release {
                inner.ready.push_back(envelope);
            }
            drop(inner);
            self.bus.note(match settlement {
                Settlement::Done => format!("done {name}"),
                Settlement::Release => format!("release {name}"),
            });
            answers.push(Ok(()));
        }
        answers
    }

    async fn stop(&self) {
        *self.stopped.lock().unwrap() = true;
        self.bus.note("stop".to_owned());
    }
}

impl Drop for TestConsumer {
    fn drop(&mut self) {
        let mut inner = self.bus.inner();
        let mine: Vec<_> = inner.held.keys().filter(|lease| lease.epoch == self.epoch).copied().collect();
        for lease in mine {
            let (envelope, _) = inner.held.remove(&lease).unwrap();
            inner.log.push(format!("dropped {}", text(&envelope)));
            inner.ready.push_back(envelope);
        }
        drop(inner);
        self.bus.changed.notify_waiters();
    }
}
