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

use tidings_domain::{Error, ErrorKind, Result};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

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
    /// Tells it from the others of its lane.
    number: u64,
    request: R,
    answer: oneshot::Sender<Result<R::Answer>>,
}

struct State<R: Request> {
    waiting: VecDeque<Entry<R>>,
    rows: usize,
    groups: usize,
    /// When the newest group began.
    began_at: Option<Instant>,
    /// The number of the newest entry.
    newest: u64,
}

impl<R: Request> Default for State<R> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), rows: 0, groups: 0, began_at: None, newest: 0 }
    }
}

impl<R: Request> State<R> {
    fn entry(&mut self, request: R, answer: oneshot::Sender<Result<R::Answer>>) -> Entry<R> {
        self.newest += 1;
        Entry { number: self.newest, request, answer }
    }

    /// Adds to what waits; whether another worker is to begin, which counts from now on.
    fn push(&mut self, entry: Entry<R>) -> bool {
        self.rows += entry.request.rows();
        self.waiting.push_back(entry);
        let stuck = self.began_at.is_some_and(|began_at| began_at.elapsed() >= SECOND_AFTER);
        let begin = self.groups == 0 || self.groups < MAX_GROUPS && (self.rows >= SECOND_ROWS || stuck);
        self.groups += usize::from(begin);
        begin
    }

    /// What waits. None when nothing does: whoever asked counts no more, from the same moment on, so that what is handed in
    /// next begins another.
    fn next_group(&mut self) -> Option<Vec<Entry<R>>> {
        if self.waiting.is_empty() {
            self.groups -= 1;
            return None;
        }
        let (mut group, mut rows, mut bytes) = (Vec::new(), 0, 0);
        while let Some(entry) = self.waiting.pop_front() {
            rows += entry.request.rows();
            bytes += entry.request.bytes();
            group.push(entry);
            if rows >= MAX_ROWS || bytes >= MAX_BYTES {
                break;
            }
        }
        self.rows -= rows;
        self.began_at = Some(Instant::now());
        Some(group)
    }

    /// Takes an entry back that still waits; false where a group has it, or had.
    fn withdraw(&mut self, number: u64) -> bool {
        let place = self.waiting.iter().position(|entry| entry.number == number);
        let entry = place.and_then(|place| self.waiting.remove(place));
        self.rows -= entry.as_ref().map_or(0, |entry| entry.request.rows());
        entry.is_some()
    }

    /// A worker ended before its time. Who waits for nobody any more hears that.
    fn cut_off(&mut self) {
        self.groups -= 1;
        if self.groups == 0 {
            self.rows = 0;
            self.waiting.clear();
        }
    }
}

/// One kind of write.
pub(crate) struct Lane<R: Request> {
    shared: Arc<Shared>,
    state: Mutex<State<R>>,
}

/// One of the tasks that take groups from a lane; however it ends, the lane knows.
struct Worker<R: Request> {
    lane: Arc<Lane<R>>,
    /// Whether the lane counts on it.
    counted: bool,
}

impl<R: Request> Drop for Worker<R> {
    fn drop(&mut self) {
        if self.counted {
            self.lane.state().cut_off();
        }
    }
}

impl<R: Request> Worker<R> {
    async fn work(mut self) {
        loop {
            // Whoever is about to hand something in gets the chance to.
            tokio::task::yield_now().await;
            let Some(group) = self.lane.state().next_group() else {
                self.counted = false;
                return;
            };
            self.lane.apply(group).await;
        }
    }
}

impl<R: Request> Lane<R> {
    pub(crate) fn new(shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self { shared: Arc::clone(shared), state: Mutex::default() })
    }

    /// Writes `request` with the next group. Dropped, the write goes on.
    ///
    /// It ends within two steps of its own: a session's and an answer's. Past that it is *unavailable* and never written
    /// where no group has taken it, else *unknown*: the group goes on, however many statements and repeats it needs.
    pub(crate) async fn write(self: &Arc<Self>, request: R) -> Result<R::Answer> {
        let by = Instant::now() + 2 * self.shared.pool.step_limit();
        let (answer, mut answered) = oneshot::channel();
        let (number, begin) = {
            let mut state = self.state();
            let entry = state.entry(request, answer);
            (entry.number, state.push(entry))
        };
        if begin {
            tokio::spawn(Worker { lane: Arc::clone(self), counted: true }.work());
        }
        let gone = |_| Err(Error::unknown(format!("{}: the writer ended before it answered", R::WHAT)));
        if let Ok(answer) = timeout_at(by, &mut answered).await {
            return answer.unwrap_or_else(gone);
        }
        if self.state().withdraw(number) {
            let late = format!("{}: those before it took too long, it was not begun", R::WHAT);
            return self.shared.note(Err(Error::unavailable(late)));
        }
        // It may have been answered this very moment.
        answered.try_recv().unwrap_or_else(|_| {
            let late = format!("{}: it was begun and did not end within its limit", R::WHAT);
            self.shared.note(Err(Error::unknown(late)))
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut away: Option<Error> = None;
        for request in requests {
            let answer = match &away {
                // Each of the others would wait for it as long.
                Some(error) => Err((error.copy(), false)),
                None => self.apply_all(std::slice::from_ref(request)).await,
            };
            answers.push(match answer {
                Ok(mut answers) => answers.pop().ok_or_else(|| Error::unknown(R::WHAT)),
                Err((error, _)) => {
                    away = Some(error.copy()).filter(|error| error.kind == ErrorKind::Unavailable);
                    Err(error)
                }
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
                    let at_fault = fault::is_of_a_row(&error);
                    let error = fault::of(error, call, R::WHAT);
                    // A row that is broken is no illness of the server.
                    if !at_fault {
                        self.shared.health.failed(&error);
                    }
                    return Err((error, at_fault));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row;

    impl Request for Row {
        type Answer = ();

        const WHAT: &'static str = "write a row";

        async fn apply<'a>(_session: &'a mut Session, _requests: &'a [Self]) -> sqlx::Result<Vec<()>> {
            unreachable!("nothing is applied here")
        }
    }

    fn entry() -> (Entry<Row>, oneshot::Receiver<Result<()>>) {
        let (answer, answered) = oneshot::channel();
        (Entry { number: 0, request: Row, answer }, answered)
    }

    /// A write that came just as the last worker found nothing more waited until the next write: for ever, where all others
    /// waited for it.
    #[test]
    fn a_write_after_the_last_group_begins_another_worker() {
        let mut state = State::default();
        assert!(state.push(entry().0), "the first write begins a worker");
        assert!(!state.push(entry().0), "who waits already is taken along");
        assert_eq!(state.next_group().map(|group| group.len()), Some(2));
        assert!(!state.push(entry().0), "a group is under way");
        assert_eq!(state.next_group().map(|group| group.len()), Some(1));
        assert!(state.next_group().is_none());
        // The worker has not ended yet, and takes nothing any more.
        assert!(state.push(entry().0));
        assert_eq!((state.groups, state.rows), (1, 1));
    }

    #[test]
    fn only_what_waits_can_be_taken_back() {
        let mut state = State::default();
        let numbers = [(); 3].map(|()| {
            let entry = state.entry(Row, oneshot::channel().0);
            let number = entry.number;
            state.push(entry);
            number
        });
        assert!(state.withdraw(numbers[1]) && !state.withdraw(numbers[1]));
        assert_eq!(state.rows, 2);
        let group = state.next_group().unwrap();
        assert_eq!(group.iter().map(|entry| entry.number).collect::<Vec<_>>(), [numbers[0], numbers[2]]);
        assert!(!state.withdraw(numbers[0]), "a group has it");
        assert_eq!(state.rows, 0);
    }

    #[test]
    fn a_worker_that_is_cut_off_leaves_nobody_waiting() {
        let mut state = State::default();
        state.push(entry().0);
        drop(state.next_group());
        let (waiting, mut answered) = entry();
        state.push(waiting);
        state.cut_off();
        assert!(matches!(answered.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert!(state.push(entry().0), "the next write begins another");
    }
}
