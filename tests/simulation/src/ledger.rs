//! What clients and other parties did and were told: one side of the account that the invariants settle. The other is
//! the recorder's events and the rows at the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tidings_domain::{
    dead_letter::DeadLetter, delivery::Delivery, id::DeadLetterId, item::Item, status::Timeline,
    subscription::Subscription, wire::Envelope,
};
use tidings_memory::{Event, Recorded, Recorder, TakenMail};
use uuid::Uuid;

use crate::{faults::Kind, plan::Plan};

/// What a message says. Every message of a run has a text of its own, so that a text tells the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    /// Its topic.
    pub topic: &'static str,
    /// Its text.
    pub text: String,
    /// Its subject.
    pub subject: Option<String>,
    /// Its kind, the attribute that filters look at.
    pub kind: Option<&'static str>,
    /// Another attribute, long: there may be too much of it for a notification, even without the text.
    pub(crate) note: Option<String>,
    /// What the text is.
    pub content_type: &'static str,
}

/// A 202 or 200.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// The event before which its request was sent.
    pub asked_at: usize,
    /// The event before which it came.
    pub answered_at: usize,
    /// The id that it gave, where it gave one.
    pub id: Option<Uuid>,
}

/// A message that a client sent, once or again and again.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    /// Its `Idempotency-Key`.
    pub key: Option<String>,
    /// What it says.
    pub said: Said,
    /// The times that it was accepted.
    pub accepted: Vec<Accepted>,
    /// The ids that answers without an outcome gave.
    pub unknown_ids: BTreeSet<Uuid>,
    /// Whether it was refused because the key said something else before.
    pub refused: bool,
    /// Whether some answer left its outcome open, or none came.
    pub unknown: bool,
}

/// What another party put into a queue or the table.
#[derive(Clone, Debug)]
pub(crate) struct Foreign {
    /// Its envelope, where it went into a queue.
    pub envelope: Option<Envelope>,
    /// What is to become of it.
    pub expected: Expected,
}

/// What is to become of what another party sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// An item with this text and kind.
    Item {
        /// Its text.
        text: String,
    },
    /// A dead letter of this reason with its body and headers.
    DeadLetter {
        /// Why.
        reason: &'static str,
    },
}

/// All rows at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    /// All items.
    pub items: Vec<Item>,
    /// The timeline of each.
    pub timelines: Vec<Timeline>,
    /// All deliveries about items and subscriptions.
    pub deliveries: Vec<Delivery>,
    /// All dead letters.
    pub letters: Vec<DeadLetter>,
    /// All subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// All mails that were taken.
    pub mails: Vec<TakenMail>,
    /// What each queue still has, by name.
    pub queues: BTreeMap<&'static str, usize>,
    /// Changes not confirmed.
    pub unconfirmed: usize,
}

/// A run, to be judged.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// What its seed decided.
    pub plan: Plan,
    /// What was posted.
    pub posts: Vec<Post>,
    /// What other parties sent.
    pub foreign: Vec<Foreign>,
    /// Dead letters that someone discarded, as they were when it was asked for.
    pub discarded: BTreeMap<DeadLetterId, Vec<DeadLetter>>,
    /// What went against the rules while it ran.
    pub faults_seen: Vec<String>,
    /// Everything that happened, in order.
    pub events: Vec<Recorded>,
    /// The rows at the end.
    pub rows: Rows,
    /// The rows weeks later, where the run goes on for so long.
    pub(crate) kept: Option<Rows>,
    /// What faults there were.
    pub faults: BTreeMap<Kind, u64>,
    /// Failures that count as an attempt of a mail, by address.
    pub mail_failures: BTreeMap<String, u64>,
}

/// The ledger that clients write. Clones are the same.
#[derive(Clone)]
pub(crate) struct Ledger {
    book: Arc<Mutex<Book>>,
    recorder: Recorder,
}

/// What a ledger holds.
#[derive(Default)]
pub(crate) struct Book {
    /// See [`Account`].
    pub posts: Vec<Post>,
    /// See [`Account`].
    pub foreign: Vec<Foreign>,
    /// See [`Account`].
    pub discarded: BTreeMap<DeadLetterId, Vec<DeadLetter>>,
    /// See [`Account`].
    pub faults_seen: Vec<String>,
    next: u64,
}

impl Ledger {
    /// Nothing yet.
    pub(crate) fn new(recorder: Recorder) -> Self {
        Self { book: Arc::default(), recorder }
    }

    /// A number that was not given before, for texts and keys.
    pub(crate) fn number(&self) -> u64 {
        let mut book = self.lock();
        book.next += 1;
        book.next
    }

    /// Opens an account for a message; its place is what later entries name it by.
    pub(crate) fn post(&self, key: Option<String>, said: Said) -> usize {
        let mut book = self.lock();
        book.posts.push(Post {
            key,
            said,
            accepted: Vec::new(),
            unknown_ids: BTreeSet::new(),
            refused: false,
            unknown: false,
        });
        book.posts.len() - 1
    }

    /// Changes a message's account.
    pub(crate) fn with_post(&self, place: usize, change: impl FnOnce(&mut Post)) {
        if let Some(post) = self.lock().posts.get_mut(place) {
            change(post);
        }
    }

    /// The place of the next event.
    pub(crate) fn position(&self) -> usize {
        self.recorder.position()
    }

    /// Writes into the trace what the world does or hears.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.recorder.record(Event::World(text.into()));
    }

    /// Something went against the rules.
    pub(crate) fn fault(&self, text: impl Into<String>) {
        let text = text.into();
        self.note(format!("against the rules: {text}"));
        self.lock().faults_seen.push(text);
    }

    /// The book itself.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
