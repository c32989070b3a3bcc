use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    ports::{
        Bus, BusCapabilities, BusTopic, Captured, ChangeStream, Changes, Consumer, Position, Queue,
        StreamHold, UnreadableChange,
    },
    wire::Envelope,
};
use tokio::sync::Semaphore;

/// A bus whose publishes fail as a test says.
pub(crate) struct FaultyBus {
    bus: Arc<dyn Bus>,
    /// What the next publishes of a record with this text in it fail with, before they have an effect.
    pub(crate) fails: Mutex<Option<(String, VecDeque<Error>)>>,
    /// Publishes whose answers are lost after their effect.
    pub(crate) lost_answers: Mutex<u32>,
    /// A record with this text in it waits for a permit.
    pub(crate) held: Mutex<Option<String>>,
    pub(crate) permits: Semaphore,
    /// How many records each publish had.
    pub(crate) batches: Mutex<Vec<usize>>,
}

impl FaultyBus {
    pub(crate) fn new(bus: Arc<dyn Bus>) -> Self {
        Self {
            bus,
            fails: Mutex::default(),
            lost_answers: Mutex::default(),
            held: Mutex::default(),
            permits: Semaphore::new(0),
            batches: Mutex::default(),
        }
    }

    /// The next publishes of what has `text` in it fail with `errors`.
    pub(crate) fn will_fail(&self, text: &str, errors: impl IntoIterator<Item = Error>) {
        *self.fails.lock().unwrap() = Some((text.to_owned(), errors.into_iter().collect()));
    }

    fn failure(&self, record: &Envelope) -> Option<Error> {
        let mut fails = self.fails.lock().unwrap();
        let (text, errors) = fails.as_mut()?;
        if has(record, text) { errors.pop_front() } else { None }
    }
}

fn has(record: &Envelope, text: &str) -> bool {
    String::from_utf8_lossy(&record.body).contains(text)
}

#[async_trait]
impl Bus for FaultyBus {
    async fn publish(&self, topic: &BusTopic, batch: Vec<Envelope>) -> Vec<Result<()>> {
        self.batches.lock().unwrap().push(batch.len());
        let held = self.held.lock().unwrap().clone();
        if let Some(text) = held
            && batch.iter().any(|record| has(record, &text))
        {
            self.permits.acquire().await.unwrap().forget();
        }
        let mut answers = Vec::new();
        for record in batch {
            let answer = match self.failure(&record) {
                Some(error) => Err(error),
                None => self.bus.publish(topic, vec![record]).await.pop().unwrap(),
            };
            let mut lost = self.lost_answers.lock().unwrap();
            answers.push(match answer {
                Ok(()) if *lost > 0 => {
                    *lost -= 1;
                    Err(Error::unknown("no confirm in time"))
                }
                answer => answer,
            });
        }
        answers
    }

    async fn consume(&self, queue: Queue, prefetch: usize) -> Result<Box<dyn Consumer>> {
        self.bus.consume(queue, prefetch).await
    }

    fn capabilities(&self) -> BusCapabilities {
        self.bus.capabilities()
    }
}

/// What the next call does.
pub(crate) enum Fault {
    /// It fails with this and has no effect.
    Fails(Error),
    /// It is made and its answer lost.
    AnswerLost,
}

type Faults = Arc<Mutex<VecDeque<Fault>>>;

/// A table stream whose confirms fail, and some of whose rows cannot be read, as a test says.
pub(crate) struct FaultyChanges {
    changes: Arc<dyn Changes>,
    pub(crate) confirms: Faults,
    /// Rows with this text cannot be read.
    pub(crate) unreadable: Arc<Mutex<Option<String>>>,
    pub(crate) confirmed: Arc<Mutex<Vec<Position>>>,
    /// Of each stream that was opened.
    holds: Mutex<Vec<Arc<Hold>>>,
}

impl FaultyChanges {
    pub(crate) fn new(changes: Arc<dyn Changes>) -> Self {
        Self {
            changes,
            confirms: Faults::default(),
            unreadable: Arc::default(),
            confirmed: Arc::default(),
            holds: Mutex::default(),
        }
    }

    /// How often the stream was opened.
    pub(crate) fn opened(&self) -> usize {
        self.holds.lock().unwrap().len()
    }

    /// As if the process had stood still for long: the stream that is open is another's, and nothing has said so yet.
    pub(crate) fn is_taken_over(&self) {
        self.holds.lock().unwrap().last().unwrap().is_lost.store(true, Ordering::Relaxed);
    }
}

/// Whether the stream was taken over, as a test says.
#[derive(Default)]
struct Hold {
    is_lost: AtomicBool,
}

impl StreamHold for Hold {
    fn check(&self) -> Result<()> {
        match self.is_lost.load(Ordering::Relaxed) {
            true => Err(Error::lease_lost("this process stood still")),
            false => Ok(()),
        }
    }
}

struct FaultyStream {
    stream: Box<dyn ChangeStream>,
    confirms: Faults,
    unreadable: Arc<Mutex<Option<String>>>,
    confirmed: Arc<Mutex<Vec<Position>>>,
    hold: Arc<Hold>,
}

#[async_trait]
impl Changes for FaultyChanges {
    async fn open(&self) -> Result<Box<dyn ChangeStream>> {
        let (stream, hold) = (self.changes.open().await?, Arc::<Hold>::default());
        self.holds.lock().unwrap().push(Arc::clone(&hold));
        Ok(Box::new(FaultyStream {
            stream,
            hold,
            confirms: Arc::clone(&self.confirms),
            unreadable: Arc::clone(&self.unreadable),
            confirmed: Arc::clone(&self.confirmed),
        }))
    }

    fn is_standing_by(&self) -> bool {
        self.changes.is_standing_by()
    }

    async fn backlog(&self) -> Result<u64> {
        self.changes.backlog().await
    }
}

#[async_trait]
impl ChangeStream for FaultyStream {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Captured>> {
        let captured = self.stream.next(max, wait).await?;
        let Some(text) = self.unreadable.lock().unwrap().clone() else { return Ok(captured) };
        let spoil = |captured: Captured| match captured.content {
            Ok(change) if change.item.message.text.as_str() == text => {
                let id = change.item.message.id;
                let unreadable = UnreadableChange {
                    message_id: Some(id),
                    topic: None,
                    bytes: format!("row {id}").into(),
                    detail: "no topic".to_owned(),
                };
                Captured { content: Err(unreadable), ..captured }
            }
            _ => captured,
        };
        Ok(captured.into_iter().map(spoil).collect())
    }

    async fn confirm(&mut self, up_to: Position) -> Result<()> {
        let fault = self.confirms.lock().unwrap().pop_front();
        if let Some(Fault::Fails(error)) = fault {
            return Err(error);
        }
        self.stream.confirm(up_to).await?;
        if fault.is_some() {
            return Err(Error::unknown("confirm: the answer was lost"));
        }
        self.confirmed.lock().unwrap().push(up_to);
        Ok(())
    }

    fn hold(&self) -> Arc<dyn StreamHold> {
        Arc::<Hold>::clone(&self.hold)
    }
}
