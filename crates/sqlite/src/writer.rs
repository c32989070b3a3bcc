//! The writer: the one connection that writes, in a task of its own.
//!
//! It takes everything that waits as one group, commits it, and answers. While a commit waits for the disk the next group
//! gathers, so that groups grow with the load and a lone write does not wait.

#![expect(
    clippy::disallowed_methods,
    reason = "an adapter's own task, ended by the store's close or its drop"
)]

use std::{fs::File, panic::AssertUnwindSafe, path::PathBuf, sync::Arc, time::Duration};

use futures::FutureExt;
use sqlx::{ConnectOptions, Connection};
use tidings_domain::{Error, Result, ports::Queue};
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
        oneshot,
    },
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{
    connection,
    dependency::Side,
    fault,
    group::{Entry, Group, Operation, Request, Session},
    queue,
    shared::Shared,
};

/// How often the file is looked at for writes of other programs: 20 looks a second cost a thousandth of a core.
const LOOK: Duration = Duration::from_millis(50);

/// How often a write is tried while writes fail, so that readiness comes back without traffic.
const RECOVER: Duration = Duration::from_secs(1);

/// How long a caller waits for its answer. More than a few groups that each wait for a busy file.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// The way to the writer; the writer ends when the last one is dropped.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    operations: UnboundedSender<Operation>,
}

impl Writer {
    /// Begins the task. It holds `lock` until it has ended.
    pub(crate) fn begin(session: Session, file: PathBuf, shared: Arc<Shared>, lock: File) -> Self {
        let (operations, receiver) = unbounded_channel();
        tokio::spawn(async move {
            let running = AssertUnwindSafe(run(session, file, receiver, Arc::clone(&shared)));
            let ended = running.catch_unwind().await;
            drop(lock);
            match ended {
                Ok(Some(closed)) => {
                    let _gone = closed.send(());
                }
                Ok(None) => {}
                Err(_) => {
                    let gone = "the writer panicked, which is a defect: restart the server";
                    shared.health.failed(Side::Write, &Error::unavailable(gone));
                }
            }
        });
        Self { operations }
    }

    /// Writes and waits for the commit. A dropped call may still have its effect.
    pub(crate) async fn write<R>(&self, request: R) -> Result<R::Answer>
    where
        R: Request,
        Operation: From<Entry<R>>,
    {
        let (answer, receiver) = oneshot::channel();
        let closed = || Error::unavailable(format!("{}: the store is closed", R::WHAT));
        self.operations.send(Entry { request, answer }.into()).map_err(|_| closed())?;
        match timeout(CALL_LIMIT, receiver).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Error::unknown(format!("{}: the store was closed meanwhile", R::WHAT))),
            Err(_) => {
                let limit = CALL_LIMIT.as_secs();
                Err(Error::unknown(format!("{}: no answer from the database in {limit} s", R::WHAT)))
            }
        }
    }

    /// Writes and does not wait.
    pub(crate) fn write_later<R>(&self, request: R)
    where
        R: Request,
        Operation: From<Entry<R>>,
    {
        let (answer, _) = oneshot::channel();
        let _closed = self.operations.send(Entry { request, answer }.into());
    }

    /// Ends the writer after what was sent before, and waits for its end.
    pub(crate) async fn close(&self) {
        let (closed, receiver) = oneshot::channel();
        if self.operations.send(Operation::Close(closed)).is_ok() {
            let _ended = receiver.await;
        }
    }
}

/// What went wrong with a group.
enum Failure {
    /// Rolled back.
    Before(sqlx::Error),
    /// The COMMIT itself.
    Commit(sqlx::Error),
}

/// Answers who waits for the end.
async fn run(
    mut session: Session,
    file: PathBuf,
    mut operations: UnboundedReceiver<Operation>,
    shared: Arc<Shared>,
) -> Option<oneshot::Sender<()>> {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = data_version(&mut session).await.unwrap_or_default();
    // Since when writes fail, and whether the connection is to be made anew before the next try.
    let mut ill: Option<Instant> = None;
    let mut broken = false;
    let closed = loop {
        tokio::select! {
            biased;
            _ = look.tick() => {
                if ill.is_some_and(|since| since.elapsed() < RECOVER) {
                    continue;
                }
                let looked = match ill {
                    Some(_) => recover(&mut session, &file, &mut broken).await,
                    None => Ok(()),
                };
                let looked = match looked {
                    Ok(()) => watch(&mut session, &mut seen, &shared).await,
                    Err(error) => Err(error),
                };
                match looked {
                    Ok(()) => {
                        if ill.take().is_some() {
                            shared.health.well(Side::Write);
                        }
                    }
                    Err(error) => {
                        broken |= fault::breaks_connection(&error);
                        ill = Some(Instant::now());
                        shared.health.failed(Side::Write, &fault::without_effect(error, "look at the database"));
                    }
                }
            }
            operation = operations.recv() => {
                let Some(operation) = operation else { break None };
                let mut group = Group::default();
                group.push(operation);
                while !group.is_full() {
                    match operations.try_recv() {
                        Ok(operation) => group.push(operation),
                        Err(_) => break,
                    }
                }
                let close = group.close();
                if !group.is_empty() {
                    if broken && reconnect(&mut session, &file).await.is_ok() {
                        broken = false;
                    }
                    if let Some(breaks) = write(&mut session, group, ill.is_some(), &shared).await {
                        broken |= breaks;
                        ill = Some(Instant::now());
                    }
                }
                if close.is_some() {
                    break close;
                }
            }
        }
    };
    // Moves the log into the file, so that a copy of tidings.db alone is whole after a clean end.
    if let Err(error) = session.connection.close().await {
        tracing::warn!(dependency = "sqlite", %error, "the database did not close cleanly");
    }
    closed
}

/// Commits a group and answers; none when it went well, else whether the connection is of no more use. That small writes go
/// well while writes fail does not end the illness: the large ones may go on failing.
async fn write(session: &mut Session, mut group: Group, is_ill: bool, shared: &Shared) -> Option<bool> {
    let committed = AssertUnwindSafe(commit(session, &mut group)).catch_unwind().await;
    let (error, breaks) = match committed {
        Ok(Ok(())) => {
            if !is_ill {
                shared.health.well(Side::Write);
            }
            group.finish(shared);
            return None;
        }
        Ok(Err(Failure::Before(error))) => {
            let breaks = fault::breaks_connection(&error);
            (fault::without_effect(error, "write to the database"), breaks)
        }
        Ok(Err(Failure::Commit(error))) => {
            let breaks = fault::breaks_connection(&error);
            (fault::of_commit(error, "write to the database"), breaks)
        }
        Err(_) => {
            tracing::error!(dependency = "sqlite", "the writer panicked; its group is rolled back");
            (Error::transient("the writer panicked and rolled back: this is a defect"), true)
        }
    };
    shared.health.failed(Side::Write, &error);
    group.fail(shared, &error);
    Some(breaks)
}

async fn commit(session: &mut Session, group: &mut Group) -> std::result::Result<(), Failure> {
    execute(session, "BEGIN IMMEDIATE").await.map_err(Failure::Before)?;
    let mut applied = group.apply(session, false).await;
    if let Err(error) = &applied
        && fault::is_rejection(error)
    {
        // One entry's row is at fault: each is tried by itself, so that its neighbours are written.
        applied = apply_one_by_one(session, group).await;
    }
    if let Err(error) = applied {
        let _rolled_back_already = execute(session, "ROLLBACK").await;
        return Err(Failure::Before(error));
    }
    if let Err(error) = execute(session, "COMMIT").await {
        let _rolled_back_already = execute(session, "ROLLBACK").await;
        return Err(Failure::Commit(error));
    }
    Ok(())
}

async fn apply_one_by_one(session: &mut Session, group: &mut Group) -> sqlx::Result<()> {
    let _rolled_back_already = execute(session, "ROLLBACK").await;
    execute(session, "BEGIN IMMEDIATE").await?;
    // Another program may have put messages into a queue: then it was the number that clashed.
    number(session).await?;
    group.apply(session, true).await
}

async fn execute(session: &mut Session, statement: &'static str) -> sqlx::Result<()> {
    sqlx::query(statement).execute(&mut session.connection).await?;
    Ok(())
}

/// Changes when another connection has written.
async fn data_version(session: &mut Session) -> sqlx::Result<i64> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(&mut session.connection).await
}

/// Looks for writes of other programs and wakes whom they concern.
async fn watch(session: &mut Session, seen: &mut i64, shared: &Shared) -> sqlx::Result<()> {
    let version = data_version(session).await?;
    if version == *seen {
        return Ok(());
    }
    number(session).await?;
    *seen = version;
    shared.foreign_write();
    Ok(())
}

/// Reads which numbers the queues' next messages get.
pub(crate) async fn number(session: &mut Session) -> sqlx::Result<()> {
    for queue in Queue::ALL {
        let index = queue::index(queue);
        let last: Option<i64> =
            sqlx::query_scalar(crate::bus::LAST[index]).fetch_one(&mut session.connection).await?;
        let next = last.and_then(|last| u64::try_from(last).ok()).map_or(1, |last| last + 1);
        session.numbers[index] = session.numbers[index].max(next);
    }
    Ok(())
}

/// Takes the room that the largest message needs and gives it back: only a write can tell that there is room again, and a
/// small one would say so too early. It is made only while writes fail.
async fn recover(session: &mut Session, file: &std::path::Path, broken: &mut bool) -> sqlx::Result<()> {
    if *broken {
        reconnect(session, file).await?;
        *broken = false;
    }
    execute(session, TAKE_ROOM).await?;
    execute(session, GIVE_ROOM).await
}

const TAKE_ROOM: &str = "INSERT OR REPLACE INTO room (one, bytes) VALUES (1, zeroblob(262144))";

const GIVE_ROOM: &str = "DELETE FROM room";

async fn reconnect(session: &mut Session, file: &std::path::Path) -> sqlx::Result<()> {
    session.connection = connection::writing(file).create_if_missing(false).connect().await?;
    Ok(())
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 2] = [TAKE_ROOM, GIVE_ROOM];
