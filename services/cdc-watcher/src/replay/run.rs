//! One replay: page by page, each published until every record of it is confirmed or refused.

use std::{collections::BTreeSet, time::Duration};

use opentelemetry::KeyValue;
use tidings_domain::{
    Error, ErrorKind,
    backoff::Backoff,
    id::MessageId,
    item::Item,
    page::PageRequest,
    ports::{BusTopic, ItemQuery},
};
use tidings_runtime::{conventions, shutdown::Shutdown};
use tokio::time::Instant;

use super::{
    Ended, Progress, Replayer, Report, Selection, Told,
    records::{Kind, Record},
};

/// Items that are read and published at once: of the largest, 25 MiB.
const PAGE: u32 = 100;

/// The waits between attempts.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) };

pub(super) struct Run<'a> {
    replayer: &'a Replayer,
    kind: Kind,
    progress: Progress,
    told: Told<'a>,
    shutdown: &'a Shutdown,
    destination: String,
}

/// Why a replay ends early.
enum Early {
    Stopped,
    GaveUp(Error),
}

/// Failures in a row.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    failures: u32,
}

impl<'a> Run<'a> {
    pub(super) fn new(replayer: &'a Replayer, kind: Kind, told: Told<'a>, shutdown: &'a Shutdown) -> Self {
        let progress = Progress { replay: kind.replay().cloned(), ..Progress::default() };
        let destination = replayer.telemetry.topic_name(&BusTopic::Notifications);
        Self { replayer, kind, progress, told, shutdown, destination }
    }

    pub(super) async fn run(mut self, selection: Selection) -> Report {
        let result = match selection {
            Selection::Stored { topic, since, until } => {
                let page = PageRequest { limit: PAGE, cursor: None };
                self.stored(ItemQuery { topic, since, until, page }).await
            }
            Selection::Ids(ids) => self.ids(ids).await,
        };
        let ended = match result {
            Ok(()) => Ended::Finished,
            Err(Early::Stopped) => Ended::Stopped,
            Err(Early::GaveUp(error)) => Ended::GaveUp(error),
        };
        Report { progress: self.progress, ended }
    }

    /// From the newest that there was at the first page to the oldest: what is inserted meanwhile stands before it.
    async fn stored(&mut self, mut query: ItemQuery) -> Result<(), Early> {
        let items = &*self.replayer.items;
        loop {
            let page = self.patiently(|| items.list(&query)).await?;
            let oldest = page.data.last().map(|item| item.stored_at);
            self.publish(page.data).await?;
            self.progress.reached = oldest.or(self.progress.reached);
            (self.told)(&self.progress);
            match page.next_cursor {
                Some(cursor) => query.page.cursor = Some(cursor),
                None => return Ok(()),
            }
        }
    }

    async fn ids(&mut self, ids: Vec<MessageId>) -> Result<(), Early> {
        let ids: Vec<_> = ids.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
        let items = &*self.replayer.items;
        for some in ids.chunks(PAGE as usize) {
            let found = self.patiently(|| items.get(some)).await?;
            let missing = some.iter().zip(&found).filter(|(_, item)| item.is_none()).map(|(id, _)| *id);
            self.progress.missing.extend(missing);
            self.publish(found.into_iter().flatten().collect()).await?;
            (self.told)(&self.progress);
        }
        Ok(())
    }

    /// Publishes a page until every item of it is confirmed, refused or passed over.
    async fn publish(&mut self, page: Vec<Item>) -> Result<(), Early> {
        let mut records = self.records(page).await?;
        let mut trouble = Trouble::default();
        while !records.is_empty() {
            if self.shutdown.is_requested() {
                return Err(Early::Stopped);
            }
            let before = records.len();
            let failure = self.publish_once(&mut records).await;
            if records.len() < before {
                trouble = Trouble::default();
            }
            if let Some(error) = failure {
                self.wait(&mut trouble, error).await?;
            }
        }
        self.waits_no_more();
        Ok(())
    }

    async fn records(&mut self, page: Vec<Item>) -> Result<Vec<Record>, Early> {
        let mut rounds = vec![0; page.len()];
        if self.kind.needs_rounds() && !page.is_empty() {
            let ids: Vec<_> = page.iter().map(|item| item.message.id).collect();
            let deliveries = &*self.replayer.deliveries;
            rounds = self.patiently(|| deliveries.rounds(&ids)).await?;
        }
        let (telemetry, destination) = (&self.replayer.telemetry, &*self.destination);
        let max_bytes = self.replayer.bus.capabilities().max_publish_bytes;
        let at = self.replayer.clock.now();
        let mut records = Vec::with_capacity(page.len());
        for (item, rounds) in page.into_iter().zip(rounds) {
            match self.kind.round(rounds) {
                Some(round) => {
                    records.push(self.kind.record(item, round, at, telemetry, destination, max_bytes));
                }
                None => self.progress.skipped += 1,
            }
        }
        Ok(records)
    }

    /// One publish: what is confirmed or refused leaves `records`. Answers the first failure of those that stay. It is never
    /// cut off, since then nobody would know what was published; the bus has a time limit of its own.
    async fn publish_once(&mut self, records: &mut Vec<Record>) -> Option<Error> {
        let envelopes = records.iter().map(|record| record.envelope.clone()).collect();
        let answers = self.replayer.bus.publish(&BusTopic::Notifications, envelopes).await;
        let mut answers = answers.into_iter();
        let mut failure = None;
        for mut record in std::mem::take(records) {
            let unanswered = || Err(Error::unknown("publish an item again: the bus gave no answer for it"));
            match answers.next().unwrap_or_else(unanswered) {
                Ok(()) => self.progress.published += 1,
                Err(error) if error.kind == ErrorKind::Rejected => {
                    record.span.fail(error.kind.as_str(), error.context.as_str());
                    self.progress.refused += 1;
                    tracing::warn!(message_id = %record.id, error = error.chain(), "the bus refuses an item's record");
                }
                Err(error) => {
                    let kind = KeyValue::new(conventions::ERROR_TYPE, error.kind.as_str());
                    record.span.event(conventions::EVENT_RETRY, vec![kind]);
                    failure.get_or_insert(error);
                    records.push(record);
                }
            }
        }
        failure
    }

    /// What `call` comes to: a read, tried again while its failure may pass.
    async fn patiently<T, F>(&mut self, call: impl Fn() -> F) -> Result<T, Early>
    where
        F: Future<Output = tidings_domain::Result<T>>,
    {
        let mut trouble = Trouble::default();
        loop {
            match self.shutdown.cuts(call()).await {
                None => return Err(Early::Stopped),
                Some(Ok(answer)) => {
                    self.waits_no_more();
                    return Ok(answer);
                }
                Some(Err(error)) => match error.kind {
                    ErrorKind::Transient | ErrorKind::Unknown | ErrorKind::Unavailable => {
                        self.wait(&mut trouble, error).await?;
                    }
                    _ => return Err(Early::GaveUp(error)),
                },
            }
        }
    }

    /// Waits after a failure, unless patience has ended.
    async fn wait(&mut self, trouble: &mut Trouble, error: Error) -> Result<(), Early> {
        let since = *trouble.since.get_or_insert_with(Instant::now);
        if since.elapsed() >= self.replayer.patience {
            return Err(Early::GaveUp(error));
        }
        trouble.failures = trouble.failures.saturating_add(1);
        let wait = BACKOFF.wait(trouble.failures, &*self.replayer.entropy);
        tracing::debug!(failures = trouble.failures, ?wait, error = error.chain(), "a replay waits");
        self.progress.waiting_for = Some(error.to_string());
        (self.told)(&self.progress);
        if self.shutdown.sleep(wait).await { Ok(()) } else { Err(Early::Stopped) }
    }

    fn waits_no_more(&mut self) {
        if self.progress.waiting_for.take().is_some() {
            (self.told)(&self.progress);
        }
    }
}
