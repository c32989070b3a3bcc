//! `Bus` and `Consumer`.

use std::time::Duration;

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    ports::{Bus, BusCapabilities, BusTopic, Consumer, Lease, Queue, Received, Settlement},
    wire::Envelope,
};

use super::{Faulty, Kind, Line};

/// What one entry of a batch meets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    Reject,
    Unknown,
    Duplicate,
}

impl Fate {
    fn draw(line: &Line, what: &'static str) -> Self {
        if line.meets(Kind::Reject, what) {
            return Self::Reject;
        }
        if line.meets(Kind::Unknown, what) {
            return Self::Unknown;
        }
        if line.meets(Kind::Duplicate, what) { Self::Duplicate } else { Self::Pass }
    }
}

#[async_trait]
impl Bus for Faulty<dyn Bus> {
    async fn publish(&self, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        let what = match topic {
            BusTopic::Messages(_) => "publish message",
            BusTopic::Notifications => "publish notification",
        };
        let fates: Vec<Fate> = batch.iter().map(|_| Fate::draw(&self.line, what)).collect();
        let size = batch.len();
        let mut taken = Vec::new();
        for (envelope, fate) in batch.into_iter().zip(&fates) {
            if *fate == Fate::Duplicate {
                taken.push(envelope.clone());
            }
            if *fate != Fate::Reject {
                taken.push(envelope);
            }
        }
        if self.line.meets(Kind::Unavailable, what) {
            return (0..size).map(|_| Err(Error::unavailable("the broker is away"))).collect();
        }
        if let Err(error) = self.line.wait(what).await {
            return (0..size).map(|_| Err(error.copy())).collect();
        }
        let crash = self.line.meets(Kind::Crash, what);
        if crash && self.line.faults.coin() {
            return self.line.crash().await;
        }
        let mut answers = self.inner.publish(topic, taken).await.into_iter();
        if crash {
            return self.line.crash().await;
        }
        let mut next = || answers.next().unwrap_or_else(|| Err(Error::unknown("no answer for this entry")));
        let mut answer = |fate| match fate {
            Fate::Pass => next(),
            Fate::Reject => Err(Error::transient("the broker refused this entry for now")),
            Fate::Unknown => next().and(Err(Error::unknown("no confirm in time"))),
            Fate::Duplicate => next().and(next()),
        };
        fates.into_iter().map(&mut answer).collect()
    }

    async fn consume(&self, queue: Queue, prefetch: usize) -> Result<Box<dyn Consumer>> {
        let inner = self.line.call("consume", self.inner.consume(queue, prefetch)).await?;
        Ok(Box::new(FaultyConsumer { inner, line: self.line.clone() }))
    }

    fn capabilities(&self) -> BusCapabilities {
        self.inner.capabilities()
    }
}

struct FaultyConsumer {
    inner: Box<dyn Consumer>,
    line: Line,
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Received>> {
        // An error ends the consumer, so that only an outage makes one.
        let line = &self.line;
        if line.meets(Kind::Unavailable, "receive") {
            return Err(Error::unavailable("the connection to the broker is gone"));
        }
        if line.meets(Kind::Slow, "receive") {
            tokio::time::sleep(line.faults.between(20, 1_500)).await;
        }
        let received = self.inner.receive(max, wait).await;
        if matches!(&received, Ok(some) if !some.is_empty()) && line.meets(Kind::Crash, "receive") {
            return line.crash().await;
        }
        received
    }

    async fn extend(&self, leases: &[Lease]) -> Vec<Result<()>> {
        if self.line.meets(Kind::Unavailable, "extend") {
            return leases.iter().map(|_| Err(Error::unavailable("the broker is away"))).collect();
        }
        self.inner.extend(leases).await
    }

    fn is_lost(&self) -> bool {
        self.inner.is_lost()
    }

    async fn settle(&self, settlements: Vec<(Lease, Settlement)>) -> Vec<Result<()>> {
        let line = &self.line;
        let crash = line.meets(Kind::Crash, "settle");
        if crash && line.faults.coin() {
            return line.crash().await;
        }
        if line.meets(Kind::Unavailable, "settle") {
            return settlements.iter().map(|_| Err(Error::unavailable("the broker is away"))).collect();
        }
        if let Err(error) = line.wait("settle").await {
            return settlements.iter().map(|_| Err(error.copy())).collect();
        }
        let lost: Vec<bool> = settlements.iter().map(|_| line.meets(Kind::Unknown, "settle")).collect();
        let answers = self.inner.settle(settlements).await;
        if crash {
            return line.crash().await;
        }
        let answer = |(answer, lost): (Result<()>, bool)| {
            if lost { answer.and(Err(Error::unknown("no confirm in time"))) } else { answer }
        };
        answers.into_iter().zip(lost).map(answer).collect()
    }

    async fn stop(&self) {
        self.inner.stop().await;
    }
}
