//! Queues, and consumers that hold messages under leases.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    ports::{Consumer, Lease, Queue, Received, Settlement},
    wire::Envelope,
};
use tokio::time::Instant;

use crate::{
    Event, Part,
    shared::{Shared, State},
};

/// A queue: messages by number, and which of them nobody holds.
#[derive(Default)]
pub(crate) struct QueueState {
    messages: BTreeMap<u64, Message>,
    ready: BTreeSet<u64>,
}

struct Message {
    envelope: Envelope,
    returns: u32,
    held: Option<Held>,
}

struct Held {
    lease: Lease,
    until: Instant,
    handed_out: bool,
}

/// What a consumer was assigned and has not handed out yet, by tag; and all that it holds.
pub(crate) struct ConsumerState {
    queue: Queue,
    prefetch: usize,
    stopped: bool,
    assigned: VecDeque<u64>,
    held: BTreeMap<u64, u64>,
}

pub(crate) struct MemoryConsumer {
    shared: Arc<Shared>,
    epoch: u64,
    queue: Queue,
    life: u64,
}

impl State {
    pub(crate) fn put_message(&mut self, queue: Queue, envelope: Envelope) -> u64 {
        let number = self.number();
        let queue = self.queues.entry(queue).or_default();
        queue.messages.insert(number, Message { envelope, returns: 0, held: None });
        queue.ready.insert(number);
        number
    }

    /// How many messages a queue has, held or not.
    pub(crate) fn depth(&self, queue: Queue) -> usize {
        self.queues.get(&queue).map_or(0, |queue| queue.messages.len())
    }

    /// Gives back what `epoch` holds: what it handed out has come back once more, what it did not has not.
    pub(crate) fn drop_consumer(&mut self, epoch: u64, max_returns: u32) -> Vec<Event> {
        let Some(consumer) = self.consumers.remove(&epoch) else { return Vec::new() };
        let numbers: Vec<u64> = consumer.held.into_values().collect();
        numbers.into_iter().filter_map(|number| self.come_back(consumer.queue, number, max_returns)).collect()
    }

    /// A message comes back; one that did so too often goes to the safety net.
    fn come_back(&mut self, name: Queue, number: u64, max_returns: u32) -> Option<Event> {
        let queue = self.queues.get_mut(&name)?;
        let message = queue.messages.get_mut(&number)?;
        let counted = message.held.take().is_some_and(|held| held.handed_out);
        message.returns += u32::from(counted);
        if message.returns >= max_returns
            && let Some(net) = name.safety_net()
        {
            let envelope = queue.messages.remove(&number)?.envelope;
            self.put_message(net, envelope);
        } else {
            queue.ready.insert(number);
        }
        Some(Event::CameBack { queue: name, message: number })
    }

    /// Leases that have run out end; answers when the next one will.
    fn end_leases(
        &mut self,
        name: Queue,
        now: Instant,
        max_returns: u32,
        events: &mut Vec<Event>,
    ) -> Option<Instant> {
        let mut next = None;
        let mut over = Vec::new();
        for (number, message) in &self.queues.entry(name).or_default().messages {
            match &message.held {
                Some(held) if held.until <= now => over.push((*number, held.lease)),
                Some(held) => next = Some(next.map_or(held.until, |next: Instant| next.min(held.until))),
                None => {}
            }
        }
        for (number, lease) in over {
            if let Some(consumer) = self.consumers.get_mut(&lease.epoch) {
                consumer.held.remove(&lease.tag);
                consumer.assigned.retain(|tag| *tag != lease.tag);
            }
            events.extend(self.come_back(name, number, max_returns));
        }
        next
    }

    /// Assigns ready messages up to the consumer's prefetch.
    fn assign(&mut self, epoch: u64, until: Instant) {
        loop {
            let Some(consumer) = self.consumers.get(&epoch) else { return };
            if consumer.stopped || consumer.held.len() >= consumer.prefetch {
                return;
            }
            let name = consumer.queue;
            let tag = self.number();
            let Some(queue) = self.queues.get_mut(&name) else { return };
            let Some(number) = queue.ready.pop_first() else { return };
            if let Some(message) = queue.messages.get_mut(&number) {
                message.held = Some(Held { lease: Lease { epoch, tag }, until, handed_out: false });
            }
            if let Some(consumer) = self.consumers.get_mut(&epoch) {
                consumer.held.insert(tag, number);
                consumer.assigned.push_back(tag);
            }
        }
    }

    /// Hands out up to `max` of what is assigned.
    fn hand_out(&mut self, epoch: u64, max: usize, until: Instant, events: &mut Vec<Event>) -> Vec<Received> {
        let mut received = Vec::new();
        while received.len() < max {
            let Some(consumer) = self.consumers.get_mut(&epoch) else { break };
            let Some(tag) = consumer.assigned.pop_front() else { break };
            let (name, number) = (consumer.queue, consumer.held.get(&tag).copied());
            let Some(queue) = self.queues.get_mut(&name) else { break };
            let Some(message) = number.and_then(|number| queue.messages.get_mut(&number)) else { continue };
            if let Some(held) = &mut message.held {
                held.until = until;
                held.handed_out = true;
            }
            let (envelope, returns) = (message.envelope.clone(), message.returns);
            received.push(Received { envelope, returns, lease: Lease { epoch, tag } });
            events.push(Event::HandedOut { queue: name, message: number.unwrap_or_default(), returns });
        }
        received
    }

    /// The message that `lease` holds now.
    fn held(&mut self, name: Queue, epoch: u64, lease: Lease, now: Instant) -> Result<(u64, &mut Message)> {
        let lost = || Error::lease_lost("the lease of this message has run out or its consumer is gone");
        if lease.epoch != epoch {
            return Err(lost());
        }
        let consumer = self.consumers.get(&epoch).ok_or_else(lost)?;
        let number = *consumer.held.get(&lease.tag).ok_or_else(lost)?;
        let queue = self.queues.get_mut(&name).ok_or_else(lost)?;
        let message = queue.messages.get_mut(&number).ok_or_else(lost)?;
        match &message.held {
            Some(held) if held.lease == lease && held.until > now => Ok((number, message)),
            _ => Err(lost()),
        }
    }

    fn settle(
        &mut self,
        name: Queue,
        epoch: u64,
        lease: Lease,
        settlement: Settlement,
        now: Instant,
    ) -> Result<Event> {
        let (number, message) = self.held(name, epoch, lease, now)?;
        message.held = None;
        if let Some(consumer) = self.consumers.get_mut(&epoch) {
            consumer.held.remove(&lease.tag);
            consumer.assigned.retain(|tag| *tag != lease.tag);
        }
        let queue = self.queues.entry(name).or_default();
        Ok(match settlement {
            Settlement::Done => {
                queue.messages.remove(&number);
                Event::Done { queue: name, message: number }
            }
            Settlement::Release => {
                queue.ready.insert(number);
                Event::Released { queue: name, message: number }
            }
        })
    }
}

impl MemoryConsumer {
    pub(crate) fn open(shared: &Arc<Shared>, state: &mut State, queue: Queue, prefetch: usize) -> Self {
        let epoch = state.number();
        let consumer = ConsumerState {
            queue,
            prefetch: prefetch.max(1),
            stopped: false,
            assigned: VecDeque::new(),
            held: BTreeMap::new(),
        };
        state.consumers.insert(epoch, consumer);
        Self { shared: Arc::clone(shared), epoch, queue, life: state.life }
    }

    fn check(&self, state: &State) -> Result<()> {
        if state.life != self.life || !state.consumers.contains_key(&self.epoch) {
            return Err(Error::unavailable("the bus was restarted: open another consumer"));
        }
        state.check(Part::Bus)
    }

    fn record(&self, events: Vec<Event>) {
        if !events.is_empty() {
            self.shared.queues_changed.notify_waiters();
        }
        for event in events {
            self.shared.record(event);
        }
    }

    /// Assigns what is there; whether there is something to hand out (or never will be), else when to look again.
    fn look(&self) -> Result<std::result::Result<(), Option<Instant>>> {
        let (now, options) = (Instant::now(), &self.shared.options);
        let mut events = Vec::new();
        let answer = {
            let mut state = self.shared.lock();
            self.check(&state)?;
            let next = state.end_leases(self.queue, now, options.max_returns, &mut events);
            state.assign(self.epoch, now + options.bus_lease);
            let consumer = state.consumers.get(&self.epoch);
            let ready = consumer.is_none_or(|consumer| consumer.stopped || !consumer.assigned.is_empty());
            if ready { Ok(()) } else { Err(next) }
        };
        self.record(events);
        Ok(answer)
    }
}

#[async_trait]
impl Consumer for MemoryConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Received>> {
        self.shared.pause().await;
        let deadline = Instant::now() + wait;
        loop {
            let changed = self.shared.queues_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let Err(next) = self.look()? else { break };
            if Instant::now() >= deadline {
                return Ok(Vec::new());
            }
            let until = next.map_or(deadline, |next| next.min(deadline));
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
        self.shared.pause().await;
        // What was assigned is taken from here on in one step, so that a call dropped before it loses nothing.
        let (now, options) = (Instant::now(), &self.shared.options);
        let mut events = Vec::new();
        let received = {
            let mut state = self.shared.lock();
            self.check(&state)?;
            state.end_leases(self.queue, now, options.max_returns, &mut events);
            state.hand_out(self.epoch, max, now + options.bus_lease, &mut events)
        };
        for event in events {
            self.shared.record(event);
        }
        Ok(received)
    }

    async fn extend(&self, leases: &[Lease]) -> Vec<Result<()>> {
        self.shared.pause().await;
        let now = Instant::now();
        let answers = {
            let mut state = self.shared.lock();
            let until = now + self.shared.options.bus_lease;
            let mut extend = |lease: &Lease| {
                self.check(&state)?;
                let (_, message) = state.held(self.queue, self.epoch, *lease, now)?;
                if let Some(held) = &mut message.held {
                    held.until = until;
                }
                Ok(())
            };
            leases.iter().map(&mut extend).collect()
        };
        self.shared.pause().await;
        answers
    }

    async fn settle(&self, settlements: Vec<(Lease, Settlement)>) -> Vec<Result<()>> {
        self.shared.pause().await;
        let now = Instant::now();
        let mut events = Vec::new();
        let answers = {
            let mut state = self.shared.lock();
            let mut settle = |(lease, settlement)| {
                if state.life != self.life {
                    return Err(Error::lease_lost("the bus was restarted since this message was handed out"));
                }
                state.check(Part::Bus)?;
                events.push(state.settle(self.queue, self.epoch, lease, settlement, now)?);
                Ok(())
            };
            settlements.into_iter().map(&mut settle).collect()
        };
        self.record(events);
        self.shared.pause().await;
        answers
    }

    async fn stop(&self) {
        self.shared.pause().await;
        if let Some(consumer) = self.shared.lock().consumers.get_mut(&self.epoch) {
            consumer.stopped = true;
        }
        self.shared.queues_changed.notify_waiters();
        self.shared.pause().await;
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        let events = self.shared.lock().drop_consumer(self.epoch, self.shared.options.max_returns);
        self.record(events);
    }
}
