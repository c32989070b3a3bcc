//! All requests that wait (`?wait`): one poller asks the store for all their ids in one query, so that a thousand who wait
//! cost what one costs. A request is asked for after 20 ms, then after twice as long each time, up to a second.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tidings_domain::{
    Result,
    id::MessageId,
    ports::Deliveries,
    status::{MessageState, Timeline},
};
use tidings_runtime::shutdown::Shutdown;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

/// The wait before the first question.
const FIRST: Duration = Duration::from_millis(20);

/// The longest wait between two questions.
const MOST: Duration = Duration::from_secs(1);

/// Who is due within this time is asked for together.
const TOGETHER: Duration = Duration::from_millis(10);

/// The most ids of one query.
const MAX_IDS: usize = 500;

/// The requests that wait.
pub(crate) struct Waiting {
    deliveries: Arc<dyn Deliveries>,
    waiters: Mutex<Waiters>,
    came: Notify,
    /// Made when nobody is to wait any longer: a stop is not held up by who waits.
    over: Shutdown,
}

#[derive(Default)]
struct Waiters {
    next_ticket: u64,
    by_ticket: BTreeMap<u64, Waiter>,
}

struct Waiter {
    id: MessageId,
    after: Option<MessageState>,
    due: Instant,
    interval: Duration,
    answer: oneshot::Sender<Timeline>,
}

/// A place among those who wait; given up when the request is dropped.
struct Ticket<'a> {
    waiting: &'a Waiting,
    number: u64,
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.waiting.lock().by_ticket.remove(&self.number);
    }
}

/// Whether there is nothing more to wait for: past `after`, or at an end.
pub(crate) fn is_reached(timeline: &Timeline, after: Option<MessageState>) -> bool {
    timeline.state().is_some_and(|state| state.is_final() || after.is_some_and(|after| state > after))
}

impl Waiting {
    pub(crate) fn new(deliveries: Arc<dyn Deliveries>) -> Self {
        Self { deliveries, waiters: Mutex::default(), came: Notify::new(), over: Shutdown::default() }
    }

    /// What the store knows of `id` once it is past `after` (without it: at an end), else at the end of the time.
    pub(crate) async fn timeline(
        &self,
        id: MessageId,
        wait: Duration,
        after: Option<MessageState>,
    ) -> Result<Timeline> {
        let now = self.ask(id).await?;
        if wait.is_zero() || is_reached(&now, after) || self.over.is_requested() {
            return Ok(now);
        }
        let deadline = Instant::now() + wait;
        let (answer, answered) = oneshot::channel();
        let _ticket = self.enter(Waiter { id, after, due: Instant::now() + FIRST, interval: FIRST, answer });
        let answered = async {
            tokio::select! {
                biased;
                answered = answered => answered.ok(),
                () = self.over.requested() => None,
            }
        };
        match timeout_at(deadline, answered).await {
            Ok(Some(timeline)) => Ok(timeline),
            Ok(None) | Err(_) => self.ask(id).await,
        }
    }

    /// The wish that nobody waits any longer, made at shutdown.
    pub(crate) fn over(&self) -> &Shutdown {
        &self.over
    }

    /// Answers those who wait until shutdown; then everyone is answered with what is known.
    pub(crate) async fn answer(&self, shutdown: &Shutdown) {
        loop {
            let next = self.lock().by_ticket.values().map(|waiter| waiter.due).min();
            let due = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = shutdown.requested() => return self.over.request(),
                () = due => self.round().await,
                () = self.came.notified() => {}
            }
        }
    }

    /// Asks for everyone who is due, in one query.
    async fn round(&self) {
        let due = self.due(Instant::now() + TOGETHER);
        let mut ids: Vec<MessageId> = due.iter().map(|(_, id)| *id).collect();
        ids.sort_unstable();
        ids.dedup();
        match self.deliveries.timelines(&ids).await {
            Ok(timelines) => {
                let known: BTreeMap<_, _> =
                    timelines.into_iter().map(|timeline| (timeline.id, timeline)).collect();
                self.tell(&due, &known);
            }
            Err(error) => {
                tracing::warn!(error = error.chain(), "cannot ask for the state of waiting requests")
            }
        }
    }

    /// Takes who is due before `until`; each is due again after its doubled interval.
    fn due(&self, until: Instant) -> Vec<(u64, MessageId)> {
        let mut waiters = self.lock();
        let due = waiters.by_ticket.iter_mut().filter(|(_, waiter)| waiter.due <= until).take(MAX_IDS);
        due.map(|(ticket, waiter)| {
            waiter.interval = (waiter.interval * 2).min(MOST);
            waiter.due = Instant::now() + waiter.interval;
            (*ticket, waiter.id)
        })
        .collect()
    }

    fn tell(&self, due: &[(u64, MessageId)], known: &BTreeMap<MessageId, Timeline>) {
        let mut waiters = self.lock();
        for (ticket, id) in due {
            let Some(timeline) = known.get(id) else { continue };
            let is_reached =
                waiters.by_ticket.get(ticket).is_some_and(|waiter| is_reached(timeline, waiter.after));
            if let Some(waiter) = is_reached.then(|| waiters.by_ticket.remove(ticket)).flatten() {
                // The request may be gone by now.
                let _ = waiter.answer.send(timeline.clone());
            }
        }
    }

    async fn ask(&self, id: MessageId) -> Result<Timeline> {
        let known = self.deliveries.timelines(&[id]).await?.pop();
        Ok(known.unwrap_or_else(|| Timeline::unknown(id)))
    }

    fn enter(&self, waiter: Waiter) -> Ticket<'_> {
        let mut waiters = self.lock();
        let number = waiters.next_ticket;
        waiters.next_ticket += 1;
        waiters.by_ticket.insert(number, waiter);
        drop(waiters);
        self.came.notify_one();
        Ticket { waiting: self, number }
    }

    fn lock(&self) -> MutexGuard<'_, Waiters> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
