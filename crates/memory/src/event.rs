//! What happened, in the order of effects: the trace that the simulation hashes and judges by.

use std::sync::{Arc, Mutex, PoisonError};

use tidings_domain::{
    dead_letter::DeadLetterSource,
    delivery::{DeliveryKey, DeliveryState},
    id::{DeadLetterId, MessageId, SubscriptionId},
    notification::Cursor,
    ports::{BusTopic, Inserted, Queue},
    subscription::SubscriptionState,
    wire::Envelope,
};
use tokio::time::Instant;
use uuid::Uuid;

/// One effect on the shared state, or what the world says of itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A message reached our queue.
    Published {
        /// By which topic.
        topic: BusTopic,
        /// Which message of the queue it became.
        message: u64,
        /// What it is.
        envelope: Envelope,
    },
    /// A queue handed a message out.
    HandedOut {
        /// Which queue.
        queue: Queue,
        /// Which message.
        message: u64,
        /// How often before.
        returns: u32,
    },
    /// A message came back because its consumer was dropped or its lease ran out.
    CameBack {
        /// To which queue.
        queue: Queue,
        /// Which message.
        message: u64,
    },
    /// A message was released.
    Released {
        /// To which queue.
        queue: Queue,
        /// Which message.
        message: u64,
    },
    /// A message is gone for good.
    Done {
        /// From which queue.
        queue: Queue,
        /// Which message.
        message: u64,
    },
    /// An insert was answered.
    Inserted {
        /// Which item.
        id: MessageId,
        /// What it came to.
        answer: Inserted,
    },
    /// An item went with all that is its own.
    Expired {
        /// Which item.
        id: MessageId,
    },
    /// The stream's position moved past these items.
    Confirmed {
        /// In order.
        ids: Vec<MessageId>,
    },
    /// A page was planned.
    Planned {
        /// About which item.
        item: MessageId,
        /// In which round.
        round: u32,
        /// The deliveries that are new.
        made: Vec<DeliveryKey>,
        /// Where the expansion stands now.
        to: Cursor,
    },
    /// A delivery was leased.
    Claimed {
        /// Which.
        key: DeliveryKey,
        /// Whether it was found `sending`.
        unknown: bool,
    },
    /// `sending` was recorded.
    Sending {
        /// Which.
        key: DeliveryKey,
    },
    /// A delivery's attempt ended.
    Settled {
        /// Which.
        key: DeliveryKey,
        /// Its state now.
        state: DeliveryState,
        /// Attempts counted so far.
        attempts: u32,
        /// Unknowns among them.
        unknowns: u32,
    },
    /// A failed delivery is due again.
    Revived {
        /// Which.
        key: DeliveryKey,
    },
    /// A dead letter was written.
    DeadLettered {
        /// Its id.
        id: DeadLetterId,
        /// Where from.
        source: DeadLetterSource,
        /// Why.
        reason: String,
        /// About which message.
        message_id: Option<Uuid>,
    },
    /// A dead letter is gone: its redrive was done, or someone discarded it.
    DeadLetterGone {
        /// Its id.
        id: DeadLetterId,
    },
    /// A subscription's row was written.
    Subscription {
        /// Which.
        id: SubscriptionId,
        /// Its state now, none when it was removed.
        state: Option<SubscriptionState>,
    },
    /// The mail server took a mail.
    Mailed {
        /// To whom.
        to: String,
        /// Its `Message-ID` without angle brackets.
        message_id: String,
    },
    /// What the world does beside the ports: a crash, an outage, a fault, an answer to a client.
    World(String),
}

/// An event with its time and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// Virtual milliseconds since the recorder was made.
    pub at_ms: u64,
    /// What happened.
    pub event: Event,
}

/// Takes down every event and hashes them. Clones are the same.
#[derive(Clone)]
pub struct Recorder {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    began: Instant,
    events: Vec<Recorded>,
    hash: u64,
}

/// FNV-1a's offset basis and prime for 64 bits.
const FNV: (u64, u64) = (0xcbf2_9ce4_8422_2325, 0x0000_0100_0000_01b3);

impl Recorder {
    /// Nothing yet.
    pub fn new() -> Self {
        let inner = Inner { began: Instant::now(), events: Vec::new(), hash: FNV.0 };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Takes `event` down.
    pub fn record(&self, event: Event) {
        let mut inner = self.lock();
        let at_ms = u64::try_from(inner.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let recorded = Recorded { at_ms, event };
        let line = format!("{recorded:?}");
        inner.hash = line.bytes().fold(inner.hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV.1));
        inner.events.push(recorded);
    }

    /// How many there are so far: the place of the next one.
    pub fn position(&self) -> usize {
        self.lock().events.len()
    }

    /// Everything so far.
    pub fn events(&self) -> Vec<Recorded> {
        self.lock().events.clone()
    }

    /// The hash of everything so far: equal for equal runs.
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}
