//! Deliveries: one mail to one recipient. The table of deliveries is the queue of mails.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    dead_letter::DeadLetter, id::SubscriptionId, time::Timestamp, topic::TopicName,
    trace_context::TraceContext,
};

/// What a delivery is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryKind {
    /// An item; `about` is the item's id.
    Item,
    /// The confirmation of a subscription; `about` is the subscription's id and the round its generation.
    Confirmation,
}

impl DeliveryKind {
    /// The word that records carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Item => "item",
            Self::Confirmation => "confirmation",
        }
    }

    /// Reads [`DeliveryKind::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Item, Self::Confirmation].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// The key of a delivery. Sorted by `about`, then subscription, then round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeliveryKey {
    /// The item's id, or the subscription's own.
    pub about: Uuid,
    /// To whom.
    pub subscription: SubscriptionId,
    /// 0; a replay to all is a new round.
    pub round: u32,
}

impl DeliveryKey {
    /// The mail's `Message-ID` (RFC 5322, 3.6.4) without its angle brackets, the same on every attempt.
    pub fn message_id(&self, domain: &str) -> String {
        format!("{}.{}.{}@{domain}", self.about.simple(), self.subscription.0.simple(), self.round)
    }
}

impl std::fmt::Display for DeliveryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.about, self.subscription, self.round)
    }
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// Due at its `due_at`, or held under a lease and not begun.
    Pending,
    /// Recorded before DATA. When its lease has run out, its outcome is unknown.
    Sending,
    /// The mail server took it.
    Sent,
    /// The recipient was no longer confirmed.
    Suppressed,
    /// Given up; a dead letter was written with it.
    Failed,
}

impl DeliveryState {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Sending, Self::Sent, Self::Suppressed, Self::Failed];

    /// The word that records and HTTP carry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sending => "sending",
            Self::Sent => "sent",
            Self::Suppressed => "suppressed",
            Self::Failed => "failed",
        }
    }

    /// Reads [`DeliveryState::as_str`].
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Whether something is still to be done.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::Sending)
    }
}

/// What a mail server answered to one attempt, with addresses cut out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// When.
    pub at: Timestamp,
    /// The command that was answered: connect, greeting, ehlo, starttls, tls, auth, mail, rcpt, data, message.
    pub phase: String,
    /// The reply code, 0 where none came.
    pub code: u16,
    /// The reply, or what went wrong.
    pub text: String,
}

/// The most answers that a row keeps, the newest.
pub const MAX_ANSWERS: usize = 16;

/// A delivery's row.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its key.
    pub key: DeliveryKey,
    /// What it is about.
    pub kind: DeliveryKind,
    /// The topic of the item or subscription.
    pub topic: TopicName,
    /// Where it stands.
    pub state: DeliveryState,
    /// When it is due, while pending.
    pub due_at: Timestamp,
    /// Attempts that counted.
    pub attempts: u32,
    /// Of these, how many ended with an unknown outcome.
    pub unknowns: u32,
    /// The newest answers, oldest first.
    pub answers: Vec<Answer>,
    /// When it was planned.
    pub created_at: Timestamp,
    /// When the mail server took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
    /// The mailer's span.
    #[serde(flatten)]
    pub trace: TraceContext,
}

/// A delivery to plan.
#[derive(Clone, Debug, PartialEq)]
pub struct NewDelivery {
    /// Its key.
    pub key: DeliveryKey,
    /// What it is about.
    pub kind: DeliveryKind,
    /// The topic.
    pub topic: TopicName,
    /// When it is due.
    pub due_at: Timestamp,
    /// When it is planned.
    pub created_at: Timestamp,
    /// The mailer's span.
    pub trace: TraceContext,
}

/// The token of a lease on a delivery: whoever presents it holds the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseToken(pub Uuid);

/// How rows are to be leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The lease's token, fresh for every call.
    pub token: LeaseToken,
    /// Who claims, for people to read.
    pub owner: String,
    /// The time of the call.
    pub at: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// A delivery held under a lease.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimedDelivery {
    /// The row as it was claimed. Was it `sending`, its outcome is unknown and the attempt is counted already.
    pub delivery: Delivery,
    /// The lease.
    pub token: LeaseToken,
    /// Whether the row was found `sending` with its lease run out.
    pub unknown: bool,
}

/// What recording `sending` comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sending {
    /// Recorded, durable: DATA may follow.
    Recorded,
    /// Another holds the row: drop the transaction, touch nothing.
    LeaseLost,
    /// The recipient is no longer confirmed (or, for a confirmation, no longer pending): settle as suppressed.
    NotSubscribed,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The server took it.
    Sent {
        /// Its answer.
        answer: Answer,
    },
    /// Handed back as it was: nothing was tried, no attempt is counted.
    Released {
        /// When it is due again.
        due_at: Timestamp,
    },
    /// It failed for now: an attempt is counted.
    Retry {
        /// The server's answer.
        answer: Answer,
        /// When it is due again.
        due_at: Timestamp,
    },
    /// The outcome is unknown, and it is to be tried again: an attempt and an unknown are counted.
    Unknown {
        /// What was last heard.
        answer: Answer,
        /// When it is due again.
        due_at: Timestamp,
    },
    /// The recipient no longer wants it.
    Suppressed,
    /// Given up: an attempt is counted when there is an answer, and the dead letter is written in the same transaction.
    Failed {
        /// The last answer, absent when none came in this attempt.
        answer: Option<Answer>,
        /// Whether the outcome that it failed with is unknown.
        unknown: bool,
        /// Its dead letter.
        dead_letter: Box<DeadLetter>,
    },
}

/// The row after `outcome`: the one rule by which every store writes it.
pub fn after(mut delivery: Delivery, outcome: &Outcome, at: Timestamp) -> Delivery {
    match outcome {
        Outcome::Sent { answer } => {
            delivery.state = DeliveryState::Sent;
            delivery.attempts += 1;
            delivery.sent_at = Some(at);
            push(&mut delivery.answers, answer);
        }
        Outcome::Released { due_at } => {
            delivery.state = DeliveryState::Pending;
            delivery.due_at = *due_at;
        }
        Outcome::Retry { answer, due_at } => {
            delivery.state = DeliveryState::Pending;
            delivery.due_at = *due_at;
            delivery.attempts += 1;
            push(&mut delivery.answers, answer);
        }
        Outcome::Unknown { answer, due_at } => {
            delivery.state = DeliveryState::Pending;
            delivery.due_at = *due_at;
            delivery.attempts += 1;
            delivery.unknowns += 1;
            push(&mut delivery.answers, answer);
        }
        Outcome::Suppressed => delivery.state = DeliveryState::Suppressed,
        Outcome::Failed { answer, unknown, .. } => {
            delivery.state = DeliveryState::Failed;
            if let Some(answer) = answer {
                delivery.attempts += 1;
                delivery.unknowns += u32::from(*unknown);
                push(&mut delivery.answers, answer);
            }
        }
    }
    delivery
}

fn push(answers: &mut Vec<Answer>, answer: &Answer) {
    answers.push(answer.clone());
    if answers.len() > MAX_ANSWERS {
        answers.remove(0);
    }
}
