//! A session: one connection at a time in a task of its own, which takes one job after the other.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidings_domain::ports::{MailEnvelope, MailPhase, MailReply};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    connection::{Connection, Connector},
    failure::Failure,
    pool::{Idle, Pool, Vacancy},
};

/// How long a session that was taken waits before it looks whether it was given back.
const HAND_OVER: Duration = Duration::from_millis(100);

/// What a session is asked to do. Whoever asked may be gone at any time; the session finishes what it began.
pub(crate) enum Job {
    /// Begin a mail transaction; the answer is where its mail is handed in.
    Begin { envelope: MailEnvelope, answer: oneshot::Sender<Result<oneshot::Sender<Submission>, Failure>> },
    /// Show that the server answers.
    Ping { answer: oneshot::Sender<Result<(), Failure>> },
}

/// A mail to send in a transaction that was begun.
pub(crate) struct Submission {
    pub(crate) message: Bytes,
    pub(crate) answer: oneshot::Sender<Result<MailReply, Failure>>,
}

pub(crate) struct Session {
    pub(crate) id: u64,
    pub(crate) connector: Arc<Connector>,
    pub(crate) pool: Arc<Pool>,
    /// Ends sessions that wait for work.
    pub(crate) closing: CancellationToken,
}

impl Session {
    /// Serves `job` and whatever comes after it, until the connection is not to be used again. `vacancy` is counted
    /// until then.
    pub(crate) async fn run(self, mut job: Job, vacancy: Vacancy) {
        let mut kept = None;
        loop {
            let Some(connection) = self.serve(kept.take(), job).await else { break };
            if connection.mails >= self.connector.settings.max_mails_per_connection {
                connection.quit(&self.connector.settings).await;
                break;
            }
            match self.next_job().await {
                Some(next) => job = next,
                None => {
                    connection.quit(&self.connector.settings).await;
                    break;
                }
            }
            kept = Some(connection);
        }
        drop(vacancy);
    }

    /// Waits for work; none when there was none for too long.
    async fn next_job(&self) -> Option<Job> {
        let (work, mut jobs) = oneshot::channel();
        self.pool.give_back(Idle { id: self.id, work });
        loop {
            tokio::select! {
                biased;
                job = &mut jobs => return job.ok(),
                () = self.closing.cancelled() => {}
                () = tokio::time::sleep(self.connector.settings.idle) => {}
            }
            if self.pool.remove(self.id) {
                return None;
            }
            // Somebody has taken it and is about to hand in work, or goes away and gives it back.
            if let Ok(job) = tokio::time::timeout(HAND_OVER, &mut jobs).await {
                return job.ok();
            }
        }
    }

    /// Serves one job; answers the connection when it may be used again.
    async fn serve(&self, kept: Option<Connection>, job: Job) -> Option<Connection> {
        match job {
            Job::Begin { envelope, answer } => {
                let (connection, outcome) = self.begin(kept, &envelope).await;
                match outcome {
                    Ok(()) => self.transaction(connection?, answer).await,
                    Err(failure) => {
                        let usable = failure.leaves_the_session_usable();
                        // Whoever asked may be gone.
                        let _ = answer.send(Err(failure));
                        if usable { self.reset(connection?).await } else { None }
                    }
                }
            }
            Job::Ping { answer } => {
                let (connection, outcome) = self.ping(kept).await;
                let _ = answer.send(outcome);
                connection
            }
        }
    }

    /// Begins a transaction on the kept connection, or on a fresh one where there is none or it turns out stale.
    async fn begin(
        &self,
        kept: Option<Connection>,
        envelope: &MailEnvelope,
    ) -> (Option<Connection>, Result<(), Failure>) {
        let settings = &self.connector.settings;
        if let Some(mut connection) = kept {
            match connection.begin(envelope, settings).await {
                Err(failure) if failure.is_of_a_stale_session() => {
                    tracing::debug!(code = failure.code, "a kept connection was gone");
                }
                outcome => return (Some(connection), outcome),
            }
        }
        match self.connector.connect().await {
            Ok(mut connection) => {
                let outcome = connection.begin(envelope, settings).await;
                (Some(connection), outcome)
            }
            Err(failure) => (None, Err(failure)),
        }
    }

    async fn ping(&self, kept: Option<Connection>) -> (Option<Connection>, Result<(), Failure>) {
        if let Some(mut connection) = kept
            && connection.check(&self.connector.settings).await.is_ok()
        {
            return (Some(connection), Ok(()));
        }
        match self.connector.connect().await {
            Ok(connection) => (Some(connection), Ok(())),
            Err(failure) => (None, Err(failure)),
        }
    }

    /// A transaction that was begun: its mail comes, or whoever began it goes away and nothing is sent.
    async fn transaction(
        &self,
        mut connection: Connection,
        answer: oneshot::Sender<Result<oneshot::Sender<Submission>, Failure>>,
    ) -> Option<Connection> {
        let (submit, submitted) = oneshot::channel();
        if answer.send(Ok(submit)).is_err() {
            return self.reset(connection).await;
        }
        let Ok(Submission { message, answer }) = submitted.await else {
            return self.reset(connection).await;
        };
        match connection.data(&message, &self.connector.settings).await {
            Ok(reply) => {
                let _ = answer.send(Ok(reply));
                Some(connection)
            }
            Err(failure) => {
                let usable = failure.leaves_the_session_usable();
                let resets = failure.phase == MailPhase::Data;
                let _ = answer.send(Err(failure));
                match (usable, resets) {
                    (false, _) => None,
                    (true, true) => self.reset(connection).await,
                    // The reply to a mail ends its transaction.
                    (true, false) => Some(connection),
                }
            }
        }
    }

    async fn reset(&self, mut connection: Connection) -> Option<Connection> {
        connection.reset(&self.connector.settings).await.ok().map(|()| connection)
    }
}
