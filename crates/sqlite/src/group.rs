//! A group: what waited for the writer, sorted by kind, applied in one transaction.
//!
//! Kinds are applied in the order of the list below. Callers that wait for each other are never in one group, so that any
//! order would do for them; this one lets a group's unsubscribe be seen by its `sending`, and what is planned by its claim.
//! Who holds a delivery comes before who claims: after a stall that outlasted leases, a claim would else take the rows whose
//! outcome or extension waits in the same group, and their mails would be sent twice.

use sqlx::sqlite::SqliteConnection;
use tidings_domain::{Error, Result};
use tokio::sync::oneshot;

use crate::{fault, shared::Shared};

/// The writer's connection with what the requests keep between groups.
pub(crate) struct Session {
    pub(crate) connection: SqliteConnection,
    /// The number of the next message of each queue, in the order of [`tidings_domain::ports::Queue::ALL`].
    pub(crate) numbers: [u64; 4],
    /// Which start of a server this is.
    pub(crate) opens: i64,
}

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

    /// Applies `requests` (at least one) in the open transaction, each kind of statement once for all of them, and answers
    /// for each, in order. May be called again after a rollback: nothing but the transaction may remember a call.
    fn apply<'a>(
        session: &'a mut Session,
        requests: &'a [Self],
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Answer>>> + Send + 'a;

    /// It was committed; called before its caller is answered, also when the caller is gone.
    fn committed(self, _answer: &mut Self::Answer, _shared: &Shared) {}

    /// It had no effect, or nobody knows whether it had one.
    fn failed(self, _shared: &Shared) {}
}

/// A request and who waits for it.
pub(crate) struct Entry<R: Request> {
    pub(crate) request: R,
    pub(crate) answer: oneshot::Sender<Result<R::Answer>>,
}

/// All requests of a kind.
struct Lane<R: Request> {
    requests: Vec<R>,
    senders: Vec<oneshot::Sender<Result<R::Answer>>>,
    answers: Vec<Result<R::Answer>>,
}

impl<R: Request> Default for Lane<R> {
    fn default() -> Self {
        Self { requests: Vec::new(), senders: Vec::new(), answers: Vec::new() }
    }
}

impl<R: Request> Lane<R> {
    fn push(&mut self, entry: Entry<R>) -> (usize, usize) {
        let size = (entry.request.rows(), entry.request.bytes());
        self.requests.push(entry.request);
        self.senders.push(entry.answer);
        size
    }

    async fn apply(&mut self, session: &mut Session, one_by_one: bool) -> sqlx::Result<()> {
        self.answers.clear();
        if self.requests.is_empty() {
            return Ok(());
        }
        if !one_by_one {
            let answers = R::apply(session, &self.requests).await?;
            debug_assert_eq!(answers.len(), self.requests.len(), "{}: an answer for each", R::WHAT);
            self.answers.extend(answers.into_iter().map(Ok));
            return Ok(());
        }
        for request in &self.requests {
            sqlx::query("SAVEPOINT entry").execute(&mut session.connection).await?;
            let applied = R::apply(session, std::slice::from_ref(request)).await;
            let answer = match applied {
                Ok(mut answers) => answers.pop().ok_or_else(|| Error::unknown(R::WHAT)),
                Err(error) if fault::is_rejection(&error) => {
                    sqlx::query("ROLLBACK TO entry").execute(&mut session.connection).await?;
                    Err(fault::without_effect(error, R::WHAT))
                }
                Err(error) => return Err(error),
            };
            sqlx::query("RELEASE entry").execute(&mut session.connection).await?;
            self.answers.push(answer);
        }
        Ok(())
    }

    fn finish(self, shared: &Shared) {
        for ((request, sender), answer) in self.requests.into_iter().zip(self.senders).zip(self.answers) {
            let answer = match answer {
                Ok(mut answer) => {
                    request.committed(&mut answer, shared);
                    Ok(answer)
                }
                Err(error) => {
                    request.failed(shared);
                    Err(error)
                }
            };
            let _gone = sender.send(answer);
        }
    }

    fn fail(self, shared: &Shared, error: &Error) {
        for (request, sender) in self.requests.into_iter().zip(self.senders) {
            request.failed(shared);
            let mut error = error.copy();
            error.context = format!("{}: {}", R::WHAT, error.context);
            let _gone = sender.send(Err(error));
        }
    }
}

macro_rules! kinds {
    ($($lane:ident: $kind:ident = $request:ty,)*) => {
        /// What is sent to the writer.
        pub(crate) enum Operation {
            $($kind(Entry<$request>),)*
            /// Everything before it is committed, then the writer ends.
            Close(oneshot::Sender<()>),
        }

        $(impl From<Entry<$request>> for Operation {
            fn from(entry: Entry<$request>) -> Self {
                Self::$kind(entry)
            }
        })*

        /// What one transaction writes.
        #[derive(Default)]
        pub(crate) struct Group {
            rows: usize,
            bytes: usize,
            close: Option<oneshot::Sender<()>>,
            $($lane: Lane<$request>,)*
        }

        impl Group {
            pub(crate) fn push(&mut self, operation: Operation) {
                let (rows, bytes) = match operation {
                    $(Operation::$kind(entry) => self.$lane.push(entry),)*
                    Operation::Close(closed) => {
                        self.close = Some(closed);
                        (0, 0)
                    }
                };
                self.rows += rows;
                self.bytes += bytes;
            }

            /// Applies every kind in order.
            pub(crate) async fn apply(&mut self, session: &mut Session, one_by_one: bool) -> sqlx::Result<()> {
                $(self.$lane.apply(session, one_by_one).await?;)*
                Ok(())
            }

            /// After the commit: every caller gets its answer.
            pub(crate) fn finish(self, shared: &Shared) {
                $(self.$lane.finish(shared);)*
            }

            /// Instead of a commit: every caller gets the error.
            pub(crate) fn fail(self, shared: &Shared, error: &Error) {
                $(self.$lane.fail(shared, error);)*
            }
        }
    };
}

kinds! {
    declares: Declare = crate::topology::Declare,
    publishes: Publish = crate::bus::Publish,
    dones: Done = crate::consumer::Done,
    gave_backs: GaveBack = crate::consumer::GaveBack,
    buries: Bury = crate::consumer::Bury,
    inserts: Insert = crate::items::Insert,
    confirms: Confirm = crate::changes::Confirm,
    forgets: Forget = crate::changes::Forget,
    put_topics: PutTopic = crate::catalog::PutTopic,
    remove_topics: RemoveTopic = crate::catalog::RemoveTopic,
    put_keys: PutKey = crate::catalog::PutKey,
    remove_keys: RemoveKey = crate::catalog::RemoveKey,
    wishes: Wish = crate::subscriptions::Wish,
    acts: ActOn = crate::subscriptions::ActOn,
    removes: Remove = crate::subscriptions::Remove,
    plans: PlanPages = crate::deliveries::PlanPages,
    sendings: RecordSending = crate::deliveries::RecordSending,
    extends: Extend = crate::deliveries::Extend,
    settles: Settle = crate::deliveries::Settle,
    claims: ClaimDue = crate::deliveries::ClaimDue,
    revives: Revive = crate::deliveries::Revive,
    letters: PutLetters = crate::dead_letters::PutLetters,
    marks: Mark = crate::dead_letters::Mark,
    letter_claims: ClaimLetters = crate::dead_letters::ClaimLetters,
    letter_settles: SettleLetters = crate::dead_letters::SettleLetters,
    discards: Discard = crate::dead_letters::Discard,
    mails: Catch = crate::mail::Catch,
    expires: Expire = crate::retention::Expire,
}

/// Rows after which a group takes no more requests.
const MAX_ROWS: usize = 2048;

/// Bytes after which a group takes no more requests.
const MAX_BYTES: usize = 8 * 1024 * 1024;

impl Group {
    /// Whether the next request waits for the next group.
    pub(crate) fn is_full(&self) -> bool {
        self.rows >= MAX_ROWS || self.bytes >= MAX_BYTES || self.close.is_some()
    }

    /// Whether there is nothing to commit.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Who waits for the end of the writer.
    pub(crate) fn close(&mut self) -> Option<oneshot::Sender<()>> {
        self.close.take()
    }
}
