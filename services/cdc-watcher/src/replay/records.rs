//! The records that a replay publishes.

use tidings_domain::{
    id::MessageId,
    item::{Change, Item},
    time::Timestamp,
    wire::{self, Envelope, change::Publish},
};
use tidings_runtime::telemetry::{Span, Telemetry};

/// What is replayed, and to whom.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Round 0 once more, under this replay id.
    Replay(String),
    /// The item's next round, under this replay id.
    NewRound(String),
    /// Round 0 of what was never notified, as if it came by the stream.
    Recovery,
}

/// One item on its way: what is published again is the same record.
pub(super) struct Record {
    pub(super) id: MessageId,
    pub(super) envelope: Envelope,
    /// The publish, which ends with its confirm.
    pub(super) span: Span,
}

impl Kind {
    /// Which replay the records carry.
    pub(super) fn replay(&self) -> Option<&String> {
        match self {
            Self::Replay(replay) | Self::NewRound(replay) => Some(replay),
            Self::Recovery => None,
        }
    }

    /// The round of an item that was notified in `rounds`; none where it is passed over.
    pub(super) fn round(&self, rounds: u32) -> Option<u32> {
        match self {
            Self::Replay(_) => Some(0),
            Self::NewRound(_) => Some(rounds),
            Self::Recovery => (rounds == 0).then_some(0),
        }
    }

    /// Whether [`Kind::round`] asks in how many rounds an item was notified.
    pub(super) fn needs_rounds(&self) -> bool {
        !matches!(self, Self::Replay(_))
    }

    /// The same for the same item in the same replay: whoever drops repeats drops ours.
    fn event_id(&self, id: MessageId) -> String {
        match self.replay() {
            Some(replay) => format!("replay:{replay}:{id}"),
            None => format!("recover:{id}"),
        }
    }

    pub(super) fn record(
        &self,
        item: Item,
        round: u32,
        at: Timestamp,
        telemetry: &Telemetry,
        destination: &str,
        max_bytes: usize,
    ) -> Record {
        let id = item.message.id;
        let event_id = self.event_id(id);
        let span = telemetry.later_publish_span(destination, &id.to_string(), &item.message.trace);
        let change = Change {
            sequence_number: event_id.clone(),
            event_id,
            size_bytes: item.message.size_bytes() as u64,
            item,
            captured_at: at,
        };
        let publish = Publish { at, round, replay: self.replay().cloned(), trace: span.trace().clone() };
        Record { id, envelope: wire::change::encode(&change, &publish, max_bytes), span }
    }
}
