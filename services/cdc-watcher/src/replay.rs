//! Publishing items from the table as notifications once more: what `tidings replay` and `tidings recover` run.
//!
//! It may run beside everything else. An item that is inserted meanwhile comes by the table stream; one that comes both ways
//! is mailed once, by the mail's key. Records are those of the second hop, with an event id of their own: other parties
//! tell a replay by it, by `round` and by `replay`.

mod records;
mod run;

use std::{sync::Arc, time::Duration};

use tidings_domain::{
    Error,
    id::{MessageId, new_v7},
    ports::{Bus, Clock, Deliveries, Entropy, Items},
    time::Timestamp,
    topic::TopicName,
};
use tidings_runtime::{shutdown::Shutdown, telemetry::Telemetry};

use records::Kind;
use run::Run;

/// What a replay may touch.
#[derive(Clone)]
pub struct Replayer {
    /// Where the items are read.
    pub items: Arc<dyn Items>,
    /// In how many rounds each was notified.
    pub deliveries: Arc<dyn Deliveries>,
    /// Where notifications go.
    pub bus: Arc<dyn Bus>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// The replay's id, and jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Spans: each publish is a trace of its own that links to the item's.
    pub telemetry: Telemetry,
    /// How long something may fail in a row until the replay gives up. Wishes to stop end it at any time.
    pub patience: Duration,
}

/// Which items are replayed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Those of a topic, or of all, that were stored at `since` or later and before `until`; newest first.
    Stored {
        /// Of this topic.
        topic: Option<TopicName>,
        /// Stored at this time or later.
        since: Option<Timestamp>,
        /// Stored before this time.
        until: Option<Timestamp>,
    },
    /// These, each once.
    Ids(Vec<MessageId>),
}

/// Who is mailed by a replay: of those who are confirmed when the notification is expanded, and whose filter matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipients {
    /// Those for whom no mail of the item was planned yet (round 0, expanded again), such as who subscribed later. A mail that
    /// was given up is a dead letter: it is redriven, not replayed.
    NotYetMailed,
    /// Everyone, whether they have it or not: a round of its own. Said twice it mails twice, once the first has been
    /// expanded.
    Everyone,
}

/// How far it has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The replay's id, which its records carry; none for a recovery, whose records are first publishes.
    pub replay: Option<String>,
    /// Items published: confirmed and routed.
    pub published: u64,
    /// Items that a recovery passed over, since they were notified.
    pub skipped: u64,
    /// Items that the bus refuses for good; each is named in the log.
    pub refused: u64,
    /// Ids of which there is no item.
    pub missing: Vec<MessageId>,
    /// Everything selected that was stored after this time is dealt with: one millisecond later is an `until` to go on
    /// from. None for ids, and before the first page.
    pub reached: Option<Timestamp>,
    /// What is away, while the replay waits for it.
    pub waiting_for: Option<String>,
}

/// How it ended.
#[derive(Debug)]
pub enum Ended {
    /// With everything that was selected.
    Finished,
    /// By the wish to stop.
    Stopped,
    /// Something failed for longer than its patience, or can never succeed. What is *unknown* may have been published.
    GaveUp(Error),
}

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How far it came.
    pub progress: Progress,
    /// How it ended.
    pub ended: Ended,
}

/// Who is told how far it has come: after each page, and when it begins and ends to wait.
pub type Told<'a> = &'a mut (dyn FnMut(&Progress) + Send);

impl Replayer {
    /// Publishes the selected items again, under a new replay id.
    pub async fn replay(
        &self,
        selection: Selection,
        recipients: Recipients,
        told: Told<'_>,
        shutdown: &Shutdown,
    ) -> Report {
        let replay = new_v7(&*self.clock, &*self.entropy).to_string();
        let kind = match recipients {
            Recipients::NotYetMailed => Kind::Replay(replay),
            Recipients::Everyone => Kind::NewRound(replay),
        };
        Run::new(self, kind, told, shutdown).run(selection).await
    }

    /// Publishes every item that was never notified: what a gap in the table stream has swallowed. To be called when the
    /// stream stands again, so that what is inserted from then on comes by it. Their records carry no replay: one that is
    /// in the queue already, or comes by the stream too, is expanded once.
    pub async fn recover(&self, told: Told<'_>, shutdown: &Shutdown) -> Report {
        let all = Selection::Stored { topic: None, since: None, until: None };
        Run::new(self, Kind::Recovery, told, shutdown).run(all).await
    }
}
