//! From what the server sends to what is handed out. No I/O: events go in, changes and marks for the ledger come out.

use std::{collections::BTreeMap, fmt::Write as _};

use bytes::Bytes;
use tidings_domain::{
    item::Change,
    ports::{Captured, Position, UnreadableChange},
    time::Timestamp,
};

use super::{
    failure::Failure,
    ledger::{Mark, Progress, Within},
    lsn::Lsn,
    pgoutput::{self, Ignored, Message, Tuple},
    row::Layout,
    transport::Event,
};

/// Where changes come from: what their ids are made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// Of the cluster.
    pub(crate) system_id: String,
    /// The one that it is on.
    pub(crate) timeline: u32,
    /// Where each earlier one ended, oldest first: a change keeps its id when it comes again after a promotion.
    pub(crate) history: Vec<(u32, Lsn)>,
}

impl Source {
    /// The timeline that a commit was made on.
    fn timeline_of(&self, commit: Lsn) -> u32 {
        let earlier = self.history.iter().find(|(_, end)| commit < *end);
        earlier.map_or(self.timeline, |(timeline, _)| *timeline)
    }
}

/// What one reading gave.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    /// What is to be handed out.
    pub(crate) captured: Vec<Captured>,
    /// Its bytes.
    pub(crate) bytes: u64,
    /// For the ledger.
    pub(crate) marks: Vec<Mark>,
    /// Heartbeats that came back.
    pub(crate) heartbeats: Vec<Bytes>,
    /// Whether the server asked for a sign of life.
    pub(crate) is_asked: bool,
    /// What was ignored, by its kind.
    pub(crate) ignored: BTreeMap<&'static str, u64>,
}

impl Batch {
    fn ignore(&mut self, kind: &'static str) {
        *self.ignored.entry(kind).or_default() += 1;
    }
}

/// Reads one stream, from its beginning on.
pub(crate) struct Reader {
    source: Source,
    /// The number of our table.
    table: u32,
    /// The prefix of our heartbeats.
    heartbeat: String,
    layout: Option<Layout>,
    /// What was confirmed before this stream: not handed out again.
    done: Lsn,
    done_within: Option<Within>,
    transaction: Option<Transaction>,
    /// What the ids of the transaction's changes begin with, and where in it their sequence numbers do. It is written anew
    /// for each transaction: most have one change.
    id: String,
    sequence: usize,
    offset: u64,
}

struct Transaction {
    commit: Lsn,
    xid: u32,
    /// Changes of our table so far, and how many of them are not handed out.
    ordinal: u64,
    skip: u64,
}

impl Reader {
    /// Begins a stream of `source`, of which `progress` is confirmed.
    pub(crate) fn new(source: Source, table: u32, heartbeat: String, progress: Progress) -> Self {
        Self {
            source,
            table,
            heartbeat,
            layout: None,
            done: progress.confirmed,
            done_within: progress.within,
            transaction: None,
            id: String::new(),
            sequence: 0,
            offset: 0,
        }
    }

    /// Reads `events`, which are emptied. An error breaks the stream; what `batch` has by then is good.
    pub(crate) fn read(
        &mut self,
        events: &mut Vec<Event>,
        now: Timestamp,
        batch: &mut Batch,
    ) -> Result<(), Failure> {
        events.drain(..).try_for_each(|event| match event {
            Event::Begin { commit, xid } => self.begin(commit, xid),
            Event::Commit { end } => self.commit(end, batch),
            Event::Message { transactional, lsn, prefix, content } => {
                self.message(transactional, lsn, prefix.as_bytes(), &content, batch);
                Ok(())
            }
            Event::KeepAlive { wal_end, reply_requested } => {
                batch.is_asked |= reply_requested;
                self.idle(wal_end, batch);
                Ok(())
            }
            Event::Data(bytes) => self.data(&bytes, now, batch),
        })
    }

    fn data(&mut self, bytes: &[u8], now: Timestamp, batch: &mut Batch) -> Result<(), Failure> {
        let message = pgoutput::parse(bytes)
            .map_err(|malformed| Failure::protocol(format!("the output plugin sent {malformed}")))?;
        match message {
            Message::Begin { commit, xid } => self.begin(commit, xid)?,
            Message::Commit { end } => self.commit(end, batch)?,
            Message::Relation(relation) if relation.table == self.table => {
                self.layout = Some(Layout::of(&relation));
            }
            Message::Relation(_) => {}
            Message::Insert { table, row } if table == self.table => self.insert(row, now, batch)?,
            Message::Insert { .. } => batch.ignore("insert"),
            Message::Ignored(Ignored::Type | Ignored::Origin) => {}
            Message::Ignored(kind) => batch.ignore(kind.as_str()),
            Message::Logical { transactional, lsn, prefix, content } => {
                self.message(transactional, lsn, prefix, content, batch);
            }
        }
        Ok(())
    }

    fn begin(&mut self, commit: Lsn, xid: u32) -> Result<(), Failure> {
        if self.transaction.is_some() {
            return Err(Failure::protocol("a transaction begins inside of another"));
        }
        let timeline = self.source.timeline_of(commit);
        let within = self.done_within.filter(|within| within.commit == commit && within.xid == xid);
        // A commit that stands before the confirmed end of another is behind it, as the server itself has it.
        let skip = match commit < self.done {
            true => u64::MAX,
            false => within.map_or(0, |within| within.ordinal),
        };
        self.transaction = Some(Transaction { commit, xid, ordinal: 0, skip });
        let as_text = "a String takes every text";
        self.id.clear();
        write!(self.id, "{}:{timeline}:", self.source.system_id).expect(as_text);
        self.sequence = self.id.len();
        write!(self.id, "{commit}:").expect(as_text);
        Ok(())
    }

    fn commit(&mut self, end: Lsn, batch: &mut Batch) -> Result<(), Failure> {
        match self.transaction.take() {
            Some(_) => batch.marks.push(Mark::Commit(end)),
            None => return Err(Failure::protocol("a transaction ends that did not begin")),
        }
        Ok(())
    }

    fn idle(&mut self, end: Lsn, batch: &mut Batch) {
        if self.transaction.is_some() {
            return;
        }
        match batch.marks.last_mut() {
            Some(Mark::Idle(last)) => *last = end.max(*last),
            _ => batch.marks.push(Mark::Idle(end)),
        }
    }

    fn message(&mut self, transactional: bool, lsn: Lsn, prefix: &[u8], content: &[u8], batch: &mut Batch) {
        if prefix == self.heartbeat.as_bytes() {
            batch.heartbeats.push(Bytes::copy_from_slice(content));
        } else {
            batch.ignore("message");
        }
        if !transactional {
            self.idle(lsn, batch);
        }
    }

    fn insert(&mut self, row: Tuple<'_>, now: Timestamp, batch: &mut Batch) -> Result<(), Failure> {
        let Some(transaction) = &mut self.transaction else {
            return Err(Failure::protocol("a row outside of a transaction"));
        };
        transaction.ordinal += 1;
        let ordinal = transaction.ordinal;
        if ordinal <= transaction.skip {
            return Ok(());
        }
        let Some(layout) = &mut self.layout else {
            return Err(Failure::protocol("a row of a table that was not described"));
        };
        let mut stored_at = None;
        let content = match layout.read(row) {
            Ok((item, size_bytes)) => {
                stored_at = Some(item.stored_at);
                batch.bytes += size_bytes;
                Ok(Change {
                    event_id: numbered(&self.id, ordinal),
                    sequence_number: numbered(&self.id[self.sequence..], ordinal),
                    item,
                    size_bytes,
                    captured_at: now,
                })
            }
            Err(unreadable) => {
                batch.bytes += unreadable.bytes.len() as u64;
                Err(UnreadableChange {
                    detail: format!("{} (change {}{ordinal})", unreadable.detail, self.id),
                    ..*unreadable
                })
            }
        };
        self.offset += 1;
        let offset = self.offset;
        batch.captured.push(Captured { position: Position { partition: 0, offset }, content });
        let (commit, xid) = (transaction.commit, transaction.xid);
        match batch.marks.last_mut() {
            Some(Mark::Changes { ordinal: last, offset: at, stored_at: latest, .. }) => {
                (*last, *at, *latest) = (ordinal, offset, stored_at.max(*latest));
            }
            _ => batch.marks.push(Mark::Changes { commit, xid, ordinal, offset, stored_at }),
        }
        Ok(())
    }
}

/// `prefix` and a number, in one allocation.
fn numbered(prefix: &str, number: u64) -> String {
    let mut text = String::with_capacity(prefix.len() + 8);
    text.push_str(prefix);
    write!(text, "{number}").expect("a String takes every text");
    text
}

#[cfg(test)]
mod tests;
