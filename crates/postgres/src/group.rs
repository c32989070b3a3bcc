//! Groups: what callers write at the same time shares a statement, since most of a write's cost is its commit.
//!
//! A lane takes one kind of write. While a group of it is under way, what is handed in waits and goes with the next one.
//! Keys are sorted in every statement, so that groups of several processes never wait for each other in a circle.

#![expect(
    clippy::disallowed_methods,
    reason = "a group belongs to all of its callers: it goes on when one of them is dropped"
)]

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tidings_domain::{Error, Result};
use tokio::{sync::oneshot, time::Instant};

use crate::{fault, pool::Session, shared::Shared};

/// Rows after which a group takes no more requests.
const MAX_ROWS: usize = 2048;

/// Bytes after which a group takes no more requests.
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Rows that wait before a second group begins beside the first.
const SECOND_ROWS: usize = 256;

/// How long a group may be under way before a second one begins beside it: it may wait for a row that someone holds.
const SECOND_AFTER: Duration = Duration::from_millis(20);

/// Groups of one lane at a time.
const MAX_GROUPS: usize = 2;

/// How often a group that was rolled back for what others did meanwhile is repeated at once.
const REPEATS: u32 = 3;

/// One write, with all that it needs to be tried again.
pub(crate) trait Request: Send + Sync + Sized + 'static {
    /// What its caller gets.
    type Answer: Send + 'static;

    /// What is being done, for errors.
    const WHAT: &'static str;

    /// Rows that it writes, about: groups are bounded by them.
    fn rows(&self) -> usize {
        1
    }

    /// Bytes that it carries.
    fn bytes(&self) -> usize {
        0
    }

    /// Applies `requests` (at least one), each kind of statement once for all of them, and answers for each, in order. May
    /// be called again after an error that rolled everything back.
    fn apply<'a>(
        session: &'a mut Session,
        requests: &'a [Self],
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Answer>>> + Send + 'a;
}

/// A request and who waits for it.
struct Entry<R: Request> {
    request: R,
    answer: oneshot::Sender<Result<R::Answer>>,
}

struct State<R: Request> {
    waiting: VecDeque<Entry<R>>,
    rows: usize,
    groups: usize,
    /// When the newest group began.
    began_at: Option<Instant>,
}

/// One kind of write.
pub(crate) struct Lane<R: Request> {
    shared: Arc<Shared>,
    state: Mutex<State<R>>,
}

/// One of the tasks that take groups from a lane; however it ends, the lane knows.
struct Worker<R: Request>(Arc<Lane<R>>);

impl<R: Request> Drop for Worker<R> {
    fn drop(&mut self) {
        self.0.state().groups -= 1;
    }
}

impl<R: Request> Lane<R> {
    pub(crate) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        let state = State { waiting: VecDeque::new(), rows: 0, groups: 0, began_at: None };
        Arc::new(Self { shared: Arc::clone(shared), state: Mutex::new(state) })
    }

    /// Writes `request` with the next group. Dropped, the write goes on.
    pub(crate) async fn write(self: &Arc<Self>, request: R) -> Result<R::Answer> {
        let (answer, answered) = oneshot::channel();
        if self.push(Entry { request, answer }) {
            let worker = Worker(Arc::clone(self));
            tokio::spawn(async move { worker.0.work().await });
        }
        answered.await.unwrap_or_else(|_gone| {
            Err(Error::unknown(format!("{}: the writer ended before it answered", R::WHAT)))
        })
    }

    /// Adds to what waits; whether another worker is to begin.
    fn push(&self, entry: Entry<R>) -> bool {
        let mut state = self.state();
        state.rows += entry.request.rows();
        state.waiting.push_back(entry);
        let stuck = state.began_at.is_some_and(|began_at| began_at.elapsed() >= SECOND_AFTER);
        let begin = state.groups == 0 || state.groups < MAX_GROUPS && (state.rows >= SECOND_ROWS || stuck);
        state.groups += usize::from(begin);
        begin
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(&self) {
        loop {
            // Whoever is about to hand something in gets the chance to.
            tokio::task::yield_now().await;
            let group = self.next_group();
            if group.is_empty() {
                return;
            }
            self.apply(group).await;
        }
    }

    fn next_group(&self) -> Vec<Entry<R>> {
        let mut state = self.state();
        let (mut group, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(entry) = state.waiting.pop_front() {
            rows += entry.request.rows();
            bytes += entry.request.bytes();
            group.push(entry);
            if rows >= MAX_ROWS || bytes >= MAX_BYTES {
                break;
            }
        }
        state.rows -= rows;
        state.began_at = Some(Instant::now());
        group
    }

    async fn apply(&self, group: Vec<Entry<R>>) {
        let (requests, senders): (Vec<_>, Vec<_>) =
            group.into_iter().map(|entry| (entry.request, entry.answer)).unzip();
        let answers = match self.apply_all(&requests).await {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            // A row of one of them is at fault: each is tried alone, so that the others get through.
            Err((_, true)) if requests.len() > 1 => self.apply_each(&requests).await,
            Err((error, _)) => requests.iter().map(|_| Err(error.copy())).collect::<Vec<_>>(),
        };
        debug_assert_eq!(answers.len(), senders.len(), "{}: an answer for each", R::WHAT);
        for (sender, answer) in senders.into_iter().zip(answers) {
            let _gone = sender.send(answer);
        }
    }

    async fn apply_each(&self, requests: &[R]) -> Vec<Result<R::Answer>> {
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            let answer = self.apply_all(std::slice::from_ref(request)).await;
            answers.push(match answer {
                Ok(mut answers) => answers.pop().ok_or_else(|| Error::unknown(R::WHAT)),
                Err((error, _)) => Err(error),
            });
        }
        answers
    }

    /// Applies `requests`; an error with whether a row is at fault.
    async fn apply_all(&self, requests: &[R]) -> std::result::Result<Vec<R::Answer>, (Error, bool)> {
        let mut repeated = 0;
        loop {
            let mut session = self.shared.session(R::WHAT).await.map_err(|error| (error, false))?;
            let applied = R::apply(&mut session, requests).await;
            let call = session.call();
            session.give_back(applied.as_ref().err());
            match applied {
                Ok(answers) => {
                    self.shared.health.well();
                    return Ok(answers);
                }
                Err(error) if repeated < REPEATS && fault::is_worth_repeating(&error) => repeated += 1,
                Err(error) => {
                    let at_fault = fault::is_rejection(&error);
                    let error = fault::of(error, call, R::WHAT);
                    self.shared.health.failed(&error);
                    return Err((error, at_fault));
                }
            }
        }
    }
}
