//! `Bus` and `Consumer` with faults: each entry, lease and settlement has a fault of its own.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    ports::{Bus, BusCapabilities, BusTopic, Consumer, Lease, Queue, Received, Settlement},
    wire::Envelope,
};

use super::{Fault, Faults, Faulty, lost_answer, rejected, unavailable};

/// What is to be sent of an entry, and what is said of it whatever comes.
fn entry(fault: Option<Fault>, operation: &'static str) -> (usize, Option<Error>) {
    match fault {
        Some(Fault::Reject) => (0, Some(rejected(operation))),
        Some(Fault::Unavailable) => (0, Some(unavailable(operation))),
        Some(Fault::FailAfterWrite) => (1, Some(lost_answer(operation))),
        Some(Fault::Duplicate) => (2, None),
        Some(Fault::Hold | Fault::Slow) | None => (1, None),
    }
}

#[async_trait]
impl Bus for Faulty<dyn Bus> {
    async fn publish(&self, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        let whole = self.faults.decide("Bus::publish");
        if whole == Some(Fault::Slow) {
            self.faults.wait().await;
        }
        let entries: Vec<_> =
            batch.iter().map(|_| entry(self.faults.decide("Bus::publish of one"), "Bus::publish")).collect();
        let copies = batch.into_iter().zip(&entries);
        let sent =
            copies.flat_map(|(envelope, (copies, _))| std::iter::repeat_n(envelope, *copies)).collect();
        let mut answers = self.inner.publish(topic, sent).await.into_iter();
        if whole == Some(Fault::Hold) {
            self.faults.wait().await;
        }
        let mut answer = |(copies, said): (usize, Option<Error>)| {
            let mut heard = Ok(());
            for _ in 0..copies {
                let one = answers.next().unwrap_or_else(|| Err(Error::unknown("no answer")));
                heard = heard.and(one);
            }
            match said {
                Some(error) if heard.is_ok() => Err(error),
                _ => heard,
            }
        };
        entries.into_iter().map(&mut answer).collect()
    }

    async fn consume(&self, queue: Queue, prefetch: usize) -> Result<Box<dyn Consumer>> {
        let inner = self.faults.call("Bus::consume", self.inner.consume(queue, prefetch)).await?;
        Ok(Box::new(FaultyConsumer { inner, faults: self.faults.clone(), ended: AtomicBool::new(false) }))
    }

    fn capabilities(&self) -> BusCapabilities {
        self.inner.capabilities()
    }
}

struct FaultyConsumer {
    inner: Box<dyn Consumer>,
    faults: Faults,
    ended: AtomicBool,
}

#[async_trait]
impl Consumer for FaultyConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Received>> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(unavailable("Consumer::receive"));
        }
        match self.faults.decide("Consumer::receive") {
            Some(Fault::Reject | Fault::Unavailable | Fault::FailAfterWrite) => {
                self.ended.store(true, Ordering::Relaxed);
                return Err(unavailable("Consumer::receive"));
            }
            // Late before, never after: a call dropped with what it had received would have lost it.
            Some(Fault::Slow | Fault::Hold) => self.faults.wait().await,
            Some(Fault::Duplicate) | None => {}
        }
        self.inner.receive(max, wait).await
    }

    async fn extend(&self, leases: &[Lease]) -> Vec<Result<()>> {
        let decided: Vec<_> = leases
            .iter()
            .map(|_| entry(self.faults.decide("Consumer::extend"), "Consumer::extend"))
            .collect();
        let kept: Vec<Lease> = leases
            .iter()
            .zip(&decided)
            .filter(|(_, (copies, _))| *copies > 0)
            .map(|(lease, _)| *lease)
            .collect();
        let answers = self.inner.extend(&kept).await;
        merge(decided, answers)
    }

    fn is_lost(&self) -> bool {
        self.inner.is_lost()
    }

    async fn settle(&self, settlements: Vec<(Lease, Settlement)>) -> Vec<Result<()>> {
        let decided: Vec<_> = settlements
            .iter()
            .map(|_| entry(self.faults.decide("Consumer::settle"), "Consumer::settle"))
            .collect();
        let kept = settlements.into_iter().zip(&decided).filter(|(_, (copies, _))| *copies > 0);
        let answers = self.inner.settle(kept.map(|(settlement, _)| settlement).collect()).await;
        merge(decided, answers)
    }

    async fn stop(&self) {
        self.inner.stop().await;
    }
}

/// One answer for each decided entry: what the script says, else what was heard.
fn merge(decided: Vec<(usize, Option<Error>)>, answers: Vec<Result<()>>) -> Vec<Result<()>> {
    let mut answers = answers.into_iter();
    let mut answer = |(copies, said): (usize, Option<Error>)| {
        let heard = if copies > 0 { answers.next().unwrap_or(Ok(())) } else { Ok(()) };
        match said {
            Some(error) if heard.is_ok() => Err(error),
            _ => heard,
        }
    };
    decided.into_iter().map(&mut answer).collect()
}
