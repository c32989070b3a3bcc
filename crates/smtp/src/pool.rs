//! The bound on connections that holds: a connection counts from before it is dialled until after it is closed.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::session::Job;

/// A session that waits for work.
pub(crate) struct Idle {
    pub(crate) id: u64,
    pub(crate) work: oneshot::Sender<Job>,
}

/// What a caller who waits is given.
enum Place {
    /// A session that was used before.
    Session(Idle),
    /// The right to open one; it is counted already.
    Vacancy,
}

/// A place, given back to the pool when its receiver is gone.
pub(crate) struct Ticket {
    place: Option<Place>,
    pool: Arc<Pool>,
}

#[derive(Default)]
struct State {
    open: usize,
    idle: Vec<Idle>,
    waiting: VecDeque<oneshot::Sender<Ticket>>,
}

pub(crate) struct Pool {
    most: usize,
    state: Mutex<State>,
}

impl Pool {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), state: Mutex::default() })
    }

    /// A session that waits for work (the one used last) or the right to open one, first come first served.
    pub(crate) async fn ticket(self: &Arc<Self>) -> Ticket {
        let waiting = {
            let mut state = self.lock();
            if let Some(idle) = state.idle.pop() {
                return self.ticket_for(Place::Session(idle));
            }
            if state.open < self.most {
                state.open += 1;
                return self.ticket_for(Place::Vacancy);
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            receiver
        };
        waiting.await.expect("the pool keeps every sender until it answers, and lives as long as its callers")
    }

    /// Takes back a session that finished cleanly.
    pub(crate) fn give_back(self: &Arc<Self>, idle: Idle) {
        self.offer(Place::Session(idle));
    }

    /// Takes a session that waits for work out of the pool; false when someone has taken it for work.
    pub(crate) fn remove(&self, id: u64) -> bool {
        let mut state = self.lock();
        let before = state.idle.len();
        state.idle.retain(|idle| idle.id != id);
        state.idle.len() < before
    }

    /// Counts a connection as closed.
    pub(crate) fn closed(self: &Arc<Self>) {
        self.offer(Place::Vacancy);
    }

    /// Gives a place to who has waited longest, else keeps it.
    fn offer(self: &Arc<Self>, mut place: Place) {
        loop {
            let next = {
                let mut state = self.lock();
                match state.waiting.pop_front() {
                    Some(next) => next,
                    None => {
                        match place {
                            Place::Session(idle) => state.idle.push(idle),
                            Place::Vacancy => state.open -= 1,
                        }
                        return;
                    }
                }
            };
            let Err(mut refused) = next.send(self.ticket_for(place)) else { return };
            let Some(back) = refused.place.take() else { return };
            place = back;
        }
    }

    fn ticket_for(self: &Arc<Self>, place: Place) -> Ticket {
        Ticket { place: Some(place), pool: Arc::clone(self) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Gives `job` to the session, or answers it with the vacancy to open one for it.
    pub(crate) fn use_for(mut self, job: Job) -> Option<(Job, Vacancy)> {
        match self.place.take() {
            Some(Place::Session(idle)) => match idle.work.send(job) {
                Ok(()) => None,
                Err(_) => unreachable!("a session leaves the pool before it stops listening"),
            },
            Some(Place::Vacancy) => Some((job, Vacancy(Arc::clone(&self.pool)))),
            None => unreachable!("a ticket is used once"),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.pool.offer(place);
        }
    }
}

/// One connection's count; gone when it is dropped.
pub(crate) struct Vacancy(Arc<Pool>);

impl Drop for Vacancy {
    fn drop(&mut self) {
        self.0.closed();
    }
}
