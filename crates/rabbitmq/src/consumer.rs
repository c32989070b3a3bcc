//! `Consumer`: a channel of its own. A lease is a delivery tag of that channel, and ends with it.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicCancelOptions, BasicNackOptions},
    types::ShortString,
};
use tidings_domain::{
    Error, Result,
    ports::{Consumer, Lease, Received, Settlement},
};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{message, metrics::Metrics, names::Names, usage::Usage};

/// How long a settlement may take to be written, and a cancellation to be answered.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Which life of which consumer: of the process, so that no two are alike.
static EPOCH: AtomicU64 = AtomicU64::new(1);

type Writing = Pin<Box<dyn Future<Output = lapin::Result<()>> + Send>>;

/// The port.
pub(crate) struct RabbitConsumer {
    channel: Channel,
    tag: ShortString,
    queue: String,
    names: Arc<Names>,
    metrics: Metrics,
    usage: Arc<Usage>,
    epoch: u64,
    deliveries: tokio::sync::Mutex<Deliveries>,
    held: Mutex<Held>,
    stopping: AtomicBool,
    until: Option<Instant>,
}

struct Deliveries {
    stream: lapin::Consumer,
    ended: bool,
}

/// Tags that are handed out and not settled. Frames are put on their way under its lock, so that none overtakes another: one
/// that settles many must not go before those that settle what is below it.
#[derive(Default)]
struct Held {
    tags: BTreeSet<u64>,
    /// Through which the last message came: most come through the same.
    exchange: String,
}

impl RabbitConsumer {
    /// `until`: when it ends by itself, so that another is opened with its whole prefetch.
    pub(crate) fn new(
        channel: Channel,
        stream: lapin::Consumer,
        (names, metrics, usage): (Arc<Names>, Metrics, Arc<Usage>),
        until: Option<Instant>,
    ) -> Self {
        Self {
            tag: stream.tag(),
            queue: stream.queue().as_str().to_owned(),
            channel,
            names,
            metrics,
            usage,
            epoch: EPOCH.fetch_add(1, Ordering::Relaxed),
            deliveries: tokio::sync::Mutex::new(Deliveries { stream, ended: false }),
            held: Mutex::default(),
            stopping: AtomicBool::new(false),
            until,
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no message is handed out that was not settled.
    pub(crate) fn holds_nothing(&self) -> bool {
        self.held().tags.is_empty()
    }

    /// Ends its channel.
    pub(crate) async fn close(&self) {
        let closing = self.channel.close(200, "renewed".into());
        if !matches!(timeout(TIMEOUT, closing).await, Ok(Ok(()))) {
            tracing::debug!(queue = self.queue, "a channel could not be closed: it ends with its connection");
        }
    }

    fn received(&self, delivery: lapin::message::Delivery) -> Received {
        let tag = delivery.delivery_tag;
        {
            let mut held = self.held();
            held.tags.insert(tag);
            let exchange = delivery.exchange.as_str();
            if held.exchange != exchange {
                exchange.clone_into(&mut held.exchange);
                self.usage.came_through(exchange);
            }
        }
        let (envelope, returns) = message::envelope(delivery, &self.names);
        Received { envelope, returns, lease: Lease { epoch: self.epoch, tag } }
    }

    /// What the end of the deliveries means.
    fn end(&self) -> Result<Vec<Received>> {
        if self.stopping.load(Ordering::Acquire) {
            return Ok(Vec::new());
        }
        Err(Error::unavailable(format!(
            "consume {}: the broker has ended it (the queue was deleted, or the connection is lost)",
            self.queue
        )))
    }

    /// Begins to write the frames of settlements, in an order in which none settles what another does.
    fn write(&self, held: &Held, mut done: Vec<u64>, released: Vec<u64>) -> Vec<Writing> {
        let mut writing = Vec::new();
        // First, or one that settles many would settle them too.
        for tag in released {
            let channel = self.channel.clone();
            let options = BasicNackOptions { multiple: false, requeue: true };
            begin(&mut writing, async move { channel.basic_nack(tag, options).await });
        }
        done.sort_unstable();
        // Everything up to the first tag that is still held goes in one frame.
        let bound = held.tags.first().copied().unwrap_or(u64::MAX);
        let below = done.partition_point(|tag| *tag < bound);
        let (together, apart) = done.split_at(below);
        let multiple = together.last().map(|tag| (*tag, true));
        for (tag, multiple) in multiple.into_iter().chain(apart.iter().map(|tag| (*tag, false))) {
            let channel = self.channel.clone();
            begin(&mut writing, async move { channel.basic_ack(tag, BasicAckOptions { multiple }).await });
        }
        self.metrics.acknowledged(usize::from(multiple.is_some()) + apart.len());
        writing
    }
}

/// Polled once, its frame is in the library's queue, behind those of its predecessors.
fn begin(writing: &mut Vec<Writing>, frame: impl Future<Output = lapin::Result<()>> + Send + 'static) {
    let mut frame: Writing = Box::pin(frame);
    let mut context = Context::from_waker(Waker::noop());
    match frame.as_mut().poll(&mut context) {
        Poll::Pending => writing.push(frame),
        Poll::Ready(result) => writing.push(Box::pin(std::future::ready(result))),
    }
}

fn lost() -> Error {
    Error::lease_lost("settle: the connection that handed it out is gone, or it was settled before")
}

#[async_trait]
impl Consumer for RabbitConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Received>> {
        let deadline = Instant::now() + wait;
        let Ok(mut deliveries) = timeout_at(deadline, self.deliveries.lock()).await else {
            return Ok(Vec::new());
        };
        if deliveries.ended {
            return self.end();
        }
        if max == 0 {
            return Ok(Vec::new());
        }
        let until = self.until.unwrap_or(deadline).min(deadline);
        let first = match timeout_at(until, deliveries.stream.next()).await {
            Ok(first) => first,
            Err(_) if until == deadline && self.channel.status().connected() => return Ok(Vec::new()),
            // Its channel has ended, also where the library has not said so yet. Or its time as a cautious one is over, and
            // nothing is under way that the next could trip over.
            Err(_) => {
                deliveries.ended = true;
                return self.end();
            }
        };
        // From here on nothing is waited for: what was taken is handed out.
        let mut received = Vec::new();
        let mut next = first;
        loop {
            match next {
                // The library still has what came over a channel that is gone: the broker hands it out again.
                Some(Ok(delivery)) if !delivery.acker.usable() => deliveries.ended = true,
                Some(Ok(delivery)) => received.push(self.received(delivery)),
                Some(Err(error)) => {
                    tracing::debug!(queue = self.queue, %error, "a consumer ended");
                    deliveries.ended = true;
                }
                None => deliveries.ended = true,
            }
            if deliveries.ended || received.len() >= max {
                break;
            }
            match deliveries.stream.next().now_or_never() {
                Some(another) => next = another,
                None => break,
            }
        }
        // Leases of a dead channel are of no use: whoever works on them would do it for nothing.
        if self.is_lost() {
            deliveries.ended = true;
            self.held().tags.clear();
            return self.end();
        }
        if received.is_empty() { self.end() } else { Ok(received) }
    }

    fn is_lost(&self) -> bool {
        !self.channel.status().connected()
    }

    async fn extend(&self, leases: &[Lease]) -> Vec<Result<()>> {
        let connected = !self.is_lost();
        let held = self.held();
        let holds = |lease: &Lease| connected && lease.epoch == self.epoch && held.tags.contains(&lease.tag);
        leases.iter().map(|lease| if holds(lease) { Ok(()) } else { Err(lost()) }).collect()
    }

    /// Ok: written to the connection. AMQP has no answer to an acknowledgement: one that is lost with its connection brings the
    /// message again, as after a crash.
    async fn settle(&self, settlements: Vec<(Lease, Settlement)>) -> Vec<Result<()>> {
        let count = settlements.len();
        let mut answers: Vec<Result<()>> = Vec::with_capacity(count);
        let (mut done, mut released) = (Vec::new(), Vec::new());
        let writing = {
            let mut held = self.held();
            if !self.channel.status().connected() {
                held.tags.clear();
            }
            for (lease, settlement) in settlements {
                if lease.epoch != self.epoch || !held.tags.remove(&lease.tag) {
                    answers.push(Err(lost()));
                    continue;
                }
                answers.push(Ok(()));
                match settlement {
                    Settlement::Done => done.push(lease.tag),
                    Settlement::Release => released.push(lease.tag),
                }
            }
            self.write(&held, done, released)
        };
        let written = async {
            for frame in writing {
                frame.await?;
            }
            Ok::<_, lapin::Error>(())
        };
        let failed: fn() -> Error = match timeout(TIMEOUT, written).await {
            Ok(Ok(())) => return answers,
            Ok(Err(_)) => lost,
            Err(_) => || Error::unknown("settle: the broker takes nothing, so it may come again"),
        };
        answers.into_iter().map(|answer| answer.and_then(|()| Err(failed()))).collect()
    }

    async fn stop(&self) {
        if self.stopping.swap(true, Ordering::AcqRel) || !self.channel.status().connected() {
            return;
        }
        let cancelling = self.channel.basic_cancel(self.tag.clone(), BasicCancelOptions::default());
        match timeout(TIMEOUT, cancelling).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(queue = self.queue, %error, "a consumer ended before its stop"),
            Err(_) => tracing::warn!(queue = self.queue, "the broker does not answer a consumer's stop"),
        }
    }
}
