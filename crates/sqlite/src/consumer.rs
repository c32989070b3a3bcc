//! `Consumer`: leases in memory, settlements on disk.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Row, sqlite::SqliteRow};
use tidings_domain::{
    Error, Result,
    ports::{Consumer, Lease, Queue, Received, Settlement},
    topic::TopicName,
    wire::Envelope,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    bus,
    group::{Request, Session},
    queue::{self, Message, Taken},
    rows::{text, to_json},
    shared::{Handle, Shared},
};

/// Messages that one read of the table brings.
const READ: i64 = 128;

macro_rules! select {
    ($table:literal) => {
        concat!(
            "SELECT number, opened, topic, native_id, headers, body FROM ",
            $table,
            " WHERE number > ?1 ORDER BY number LIMIT ?2"
        )
    };
}

const SELECT: [&str; 4] =
    [select!("queue_items"), select!("queue_mail"), select!("queue_items_dead"), select!("queue_mail_dead")];

macro_rules! delete {
    ($table:literal) => {
        concat!("DELETE FROM ", $table, " WHERE number IN (SELECT value FROM json_each(?1))")
    };
}

const DELETE: [&str; 4] =
    [delete!("queue_items"), delete!("queue_mail"), delete!("queue_items_dead"), delete!("queue_mail_dead")];

macro_rules! give_back {
    ($table:literal) => {
        concat!(
            "UPDATE ",
            $table,
            " SET opened = opened - back.times
            FROM (SELECT value, count(*) AS times FROM json_each(?1) GROUP BY value) AS back
            WHERE number = back.value"
        )
    };
}

const GIVE_BACK: [&str; 4] = [
    give_back!("queue_items"),
    give_back!("queue_mail"),
    give_back!("queue_items_dead"),
    give_back!("queue_mail_dead"),
];

macro_rules! bury {
    ($from:literal, $to:literal) => {
        concat!(
            "INSERT INTO ",
            $to,
            " (number, opened, topic, native_id, headers, body)
            SELECT ?2 + each.key, ?3, queued.topic, queued.native_id, queued.headers, queued.body
            FROM json_each(?1) AS each CROSS JOIN ",
            $from,
            " AS queued ON queued.number = each.value"
        )
    };
}

/// From `items` and `mail`; the safety nets have none themselves.
const BURY: [&str; 2] = [bury!("queue_items", "queue_items_dead"), bury!("queue_mail", "queue_mail_dead")];

/// The port.
pub(crate) struct SqliteConsumer {
    handle: Arc<Handle>,
    queue: Queue,
    prefetch: usize,
    epoch: u64,
    stopped: AtomicBool,
}

impl SqliteConsumer {
    pub(crate) fn new(handle: Arc<Handle>, queue: Queue, prefetch: usize) -> Self {
        let epoch = handle.shared.next_epoch();
        handle.shared.queue(queue).join(epoch);
        Self { handle, queue, prefetch, epoch, stopped: AtomicBool::new(false) }
    }

    /// Reads the table for this queue, one reader at a time; every consumer of the queue is served by it.
    async fn read(&self) -> Result<()> {
        let state = self.handle.shared.queue(self.queue);
        let _one_at_a_time = state.reading.lock().await;
        // Another consumer may have read meanwhile.
        let Some((after, missed)) = state.unread() else { return Ok(()) };
        let read = sqlx::query(SELECT[queue::index(self.queue)])
            .bind(i64::try_from(after).unwrap_or(i64::MAX))
            .bind(READ)
            .fetch_all(&self.handle.readers)
            .await;
        let rows = self.handle.read(read, "read a queue")?;
        let whole = rows.len() < READ as usize;
        state.fill(rows.iter().filter_map(message).collect(), missed, whole);
        Ok(())
    }

    fn free(&self) -> usize {
        self.prefetch.saturating_sub(self.handle.shared.queue(self.queue).holding(self.epoch))
    }
}

#[async_trait]
impl Consumer for SqliteConsumer {
    async fn receive(&self, max: usize, wait: Duration) -> Result<Vec<Received>> {
        let deadline = Instant::now() + wait;
        let state = self.handle.shared.queue(self.queue);
        loop {
            let mut ready = std::pin::pin!(state.ready.notified());
            ready.as_mut().enable();
            if self.stopped.load(Ordering::Acquire) {
                return Ok(Vec::new());
            }
            let mut worn_out = Vec::new();
            let taken = state.take(self.epoch, max.min(self.free()), self.handle.shared.opens, &mut worn_out);
            if !worn_out.is_empty() {
                let numbers = worn_out.iter().map(|(number, _)| *number).collect();
                self.handle.writer.write_later(Bury { queue: self.queue, numbers, messages: worn_out });
            }
            match taken {
                Taken::Messages(messages) => {
                    let received = |(tag, returns, envelope)| Received {
                        envelope,
                        returns,
                        lease: Lease { epoch: self.epoch, tag },
                    };
                    return Ok(messages.into_iter().map(received).collect());
                }
                Taken::Read => self.read().await?,
                Taken::Nothing => {
                    if timeout_at(deadline, ready).await.is_err() {
                        return Ok(Vec::new());
                    }
                }
            }
        }
    }

    async fn extend(&self, leases: &[Lease]) -> Vec<Result<()>> {
        let state = self.handle.shared.queue(self.queue);
        leases
            .iter()
            .map(|lease| match lease.epoch == self.epoch && state.holds(self.epoch, lease.tag) {
                true => Ok(()),
                false => Err(stale()),
            })
            .collect()
    }

    async fn settle(&self, settlements: Vec<(Lease, Settlement)>) -> Vec<Result<()>> {
        let state = self.handle.shared.queue(self.queue);
        let (mut tags, mut numbers) = (Vec::new(), Vec::new());
        let mut answers: Vec<Option<Result<()>>> = Vec::with_capacity(settlements.len());
        for (lease, settlement) in settlements {
            answers.push(match settlement {
                _ if lease.epoch != self.epoch => Some(Err(stale())),
                Settlement::Done => match state.begin_done(self.epoch, lease.tag) {
                    Some(number) => {
                        tags.push(lease.tag);
                        numbers.push(number);
                        None
                    }
                    None => Some(Err(stale())),
                },
                Settlement::Release => Some(match state.release(self.epoch, lease.tag) {
                    true => Ok(()),
                    false => Err(stale()),
                }),
            });
        }
        let written = match tags.is_empty() {
            true => Ok(()),
            false => self.handle.write(Done { queue: self.queue, epoch: self.epoch, tags, numbers }).await,
        };
        let written = |answer: Option<Result<()>>| match (answer, &written) {
            (Some(answer), _) => answer,
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => Err(error.copy()),
        };
        answers.into_iter().map(written).collect()
    }

    async fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.handle.shared.queue(self.queue).ready.notify_waiters();
    }
}

impl Drop for SqliteConsumer {
    fn drop(&mut self) {
        let numbers = self.handle.shared.queue(self.queue).abandon(self.epoch);
        if !numbers.is_empty() {
            self.handle.writer.write_later(GaveBack { queue: self.queue, numbers });
        }
    }
}

fn stale() -> Error {
    Error::lease_lost("the message is settled, released or held by another consumer")
}

fn message(row: &SqliteRow) -> Option<(u64, Message)> {
    let number = u64::try_from(row.try_get::<i64, _>(0).ok()?).ok()?;
    let envelope = Envelope {
        headers: bus::headers(text(row, 4).unwrap_or_default()),
        body: Bytes::from(row.try_get::<Vec<u8>, _>(5).ok()?),
        native_id: text(row, 3).map(str::to_owned),
        published_to: text(row, 2).and_then(|name| TopicName::parse(name).ok()),
    };
    Some((number, Message { opened: row.try_get(1).ok()?, envelope }))
}

/// The numbers that several requests name for each queue, as JSON; none for queues that none names.
fn by_queue<R>(requests: &[R], of: impl Fn(&R) -> (Queue, &[u64])) -> [Option<String>; 4] {
    let mut numbers: [Vec<u64>; 4] = Default::default();
    for request in requests {
        let (queue, of_queue) = of(request);
        numbers[queue::index(queue)].extend(of_queue);
    }
    numbers.map(|mut numbers| {
        numbers.sort_unstable();
        (!numbers.is_empty()).then(|| to_json(&numbers))
    })
}

/// Messages that are dealt with.
pub(crate) struct Done {
    queue: Queue,
    epoch: u64,
    tags: Vec<u64>,
    numbers: Vec<u64>,
}

impl Request for Done {
    type Answer = ();

    const WHAT: &'static str = "settle messages";

    fn rows(&self) -> usize {
        self.numbers.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        for (index, numbers) in
            by_queue(requests, |done| (done.queue, &done.numbers[..])).into_iter().enumerate()
        {
            if let Some(numbers) = numbers {
                sqlx::query(DELETE[index]).bind(numbers).execute(&mut session.connection).await?;
            }
        }
        Ok(vec![(); requests.len()])
    }

    fn committed(self, _answer: &mut (), shared: &Shared) {
        shared.queue(self.queue).end_done(&self.tags);
    }

    fn failed(self, shared: &Shared) {
        shared.queue(self.queue).undo_done(self.epoch, &self.tags);
    }
}

/// Messages whose consumer died: the count of returns, kept over restarts.
pub(crate) struct GaveBack {
    queue: Queue,
    numbers: Vec<u64>,
}

impl Request for GaveBack {
    type Answer = ();

    const WHAT: &'static str = "count returned messages";

    fn rows(&self) -> usize {
        self.numbers.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        for (index, numbers) in
            by_queue(requests, |back| (back.queue, &back.numbers[..])).into_iter().enumerate()
        {
            if let Some(numbers) = numbers {
                sqlx::query(GIVE_BACK[index]).bind(numbers).execute(&mut session.connection).await?;
            }
        }
        Ok(vec![(); requests.len()])
    }
}

/// Messages that were handed out too often, on their way to the safety net.
pub(crate) struct Bury {
    queue: Queue,
    numbers: Vec<u64>,
    messages: Vec<(u64, Message)>,
}

impl Request for Bury {
    type Answer = ();

    const WHAT: &'static str = "move messages to the safety net";

    fn rows(&self) -> usize {
        self.numbers.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<()>> {
        for (index, numbers) in
            by_queue(requests, |bury| (bury.queue, &bury.numbers[..])).into_iter().enumerate()
        {
            let (Some(numbers), Some(bury)) = (numbers, BURY.get(index)) else { continue };
            // The safety nets stand two places behind their queues.
            let net = index + 2;
            let first = i64::try_from(session.numbers[net]).unwrap_or(i64::MAX);
            let buried = sqlx::query(*bury)
                .bind(numbers.clone())
                .bind(first)
                .bind(session.opens)
                .execute(&mut session.connection)
                .await?;
            session.numbers[net] += buried.rows_affected();
            sqlx::query(DELETE[index]).bind(numbers).execute(&mut session.connection).await?;
        }
        Ok(vec![(); requests.len()])
    }

    fn committed(self, _answer: &mut (), shared: &Shared) {
        if let Some(net) = self.queue.safety_net() {
            shared.queue(net).look_again();
        }
    }

    fn failed(self, shared: &Shared) {
        // They are in the table still, and below what was read of it.
        shared.queue(self.queue).put_back_worn_out(self.messages);
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&[&str]; 4] = [&SELECT, &DELETE, &GIVE_BACK, &BURY];
