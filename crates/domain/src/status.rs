//! A message's state and timeline, computed from its rows.

use serde::{Deserialize, Serialize};

use crate::{id::MessageId, time::Timestamp};

/// Where a message stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageState {
    /// The broker has it.
    Accepted,
    /// Its row is written.
    Stored,
    /// The mailer has taken its notification.
    Notified,
    /// Everyone was looked at and no delivery is open.
    Done,
    /// It, or one of its deliveries, is a dead letter and nothing is open.
    DeadLetter,
}

impl MessageState {
    /// The word that HTTP carries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Stored => "stored",
            Self::Notified => "notified",
            Self::Done => "done",
            Self::DeadLetter => "dead_letter",
        }
    }

    /// Whether nothing more is to be waited for.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::DeadLetter)
    }
}

/// Deliveries about an item by state, over all rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryCounts {
    /// Due, or due later.
    pub pending: u64,
    /// Under way.
    pub sending: u64,
    /// Taken by the mail server.
    pub sent: u64,
    /// No longer wanted.
    pub suppressed: u64,
    /// Given up.
    pub failed: u64,
}

impl DeliveryCounts {
    /// How many are still to be done.
    pub fn open(&self) -> u64 {
        self.pending + self.sending
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.open() + self.sent + self.suppressed + self.failed
    }
}

/// What the store knows of one message id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Which message.
    pub id: MessageId,
    /// When it was accepted, from its row.
    pub accepted_at: Option<Timestamp>,
    /// When its row was written; absent while there is no row.
    pub stored_at: Option<Timestamp>,
    /// When the watcher read the change.
    pub captured_at: Option<Timestamp>,
    /// When the watcher published it.
    pub published_at: Option<Timestamp>,
    /// Whether everyone was looked at.
    pub expanded: bool,
    /// When the first mail was taken by the mail server.
    pub first_mail_at: Option<Timestamp>,
    /// When the last one was.
    pub last_mail_at: Option<Timestamp>,
    /// Its deliveries.
    pub deliveries: DeliveryCounts,
    /// Dead letters about it. Once it is stored those of source `items` are not counted: they are about something else
    /// that came under its id.
    pub dead_letters: u64,
}

impl Timeline {
    /// A message of which the store knows nothing.
    pub fn unknown(id: MessageId) -> Self {
        Self {
            id,
            accepted_at: None,
            stored_at: None,
            captured_at: None,
            published_at: None,
            expanded: false,
            first_mail_at: None,
            last_mail_at: None,
            deliveries: DeliveryCounts::default(),
            dead_letters: 0,
        }
    }

    /// Where the message stands; none when nothing is known of it.
    pub fn state(&self) -> Option<MessageState> {
        let expanding = self.published_at.is_some() && !self.expanded;
        if self.dead_letters > 0 && self.deliveries.open() == 0 && !expanding {
            return Some(MessageState::DeadLetter);
        }
        self.stored_at?;
        Some(match (self.published_at, self.expanded && self.deliveries.open() == 0) {
            (None, _) => MessageState::Stored,
            (Some(_), false) => MessageState::Notified,
            (Some(_), true) => MessageState::Done,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_follow_the_rows() {
        let mut timeline = Timeline::unknown(MessageId(uuid::Uuid::nil()));
        let at = Some(Timestamp::from_millis(1));
        assert_eq!(timeline.state(), None);
        timeline.stored_at = at;
        assert_eq!(timeline.state(), Some(MessageState::Stored));
        timeline.published_at = at;
        assert_eq!(timeline.state(), Some(MessageState::Notified));
        timeline.expanded = true;
        assert_eq!(timeline.state(), Some(MessageState::Done));
        timeline.deliveries.pending = 1;
        timeline.dead_letters = 1;
        assert_eq!(timeline.state(), Some(MessageState::Notified));
        timeline.deliveries.pending = 0;
        assert_eq!(timeline.state(), Some(MessageState::DeadLetter));
    }
}
