//! What is shown of messages and their deliveries.

use serde::Serialize;
use tidings_domain::{
    attributes::Attributes,
    delivery::{Answer, Delivery, DeliveryKind, DeliveryState},
    id::{MessageId, SubscriptionId},
    item::Item,
    page::Page,
    status::{DeliveryCounts, MessageState, Timeline},
    time::Timestamp,
    topic::TopicName,
};
use utoipa::ToSchema;

/// A message as it was posted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Message)]
pub(crate) struct MessageView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: MessageId,
    /// Its topic.
    #[schema(value_type = String)]
    topic: TopicName,
    /// The text.
    message: String,
    /// The subject of its mails.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// What the text is.
    content_type: String,
    /// The sender's own attributes.
    #[schema(value_type = Object)]
    attributes: Attributes,
    /// When it was taken.
    #[schema(value_type = String, format = DateTime)]
    accepted_at: Timestamp,
    /// When its row was written.
    #[schema(value_type = String, format = DateTime)]
    stored_at: Timestamp,
    /// The trace that it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
}

impl From<Item> for MessageView {
    fn from(Item { message, stored_at }: Item) -> Self {
        Self {
            id: message.id,
            topic: message.topic,
            message: message.text.as_str().to_owned(),
            subject: message.subject.map(|subject| subject.as_str().to_owned()),
            content_type: message.content_type,
            attributes: message.attributes,
            accepted_at: message.accepted_at,
            stored_at,
            traceparent: message.trace.traceparent,
        }
    }
}

/// A message with its state.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MessageStatus)]
pub(crate) struct StatusView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: MessageId,
    /// Where it stands: accepted, stored, notified, done, dead_letter.
    #[schema(value_type = String)]
    state: MessageState,
    /// The same in words.
    summary: String,
    /// When it came where.
    timeline: TimelineView,
    /// Its deliveries by state.
    deliveries: DeliveriesView,
    /// Dead letters about it: see `GET /v1/dead-letters?message_id=`.
    dead_letters: u64,
    /// The message, once it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<MessageView>,
}

/// When a message came where; what has not happened is null.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Timeline)]
pub(crate) struct TimelineView {
    /// The api took it.
    #[schema(value_type = Option<String>, format = DateTime)]
    accepted_at: Option<Timestamp>,
    /// Its row was written.
    #[schema(value_type = Option<String>, format = DateTime)]
    stored_at: Option<Timestamp>,
    /// The cdc-watcher read the change.
    #[schema(value_type = Option<String>, format = DateTime)]
    captured_at: Option<Timestamp>,
    /// The cdc-watcher published it.
    #[schema(value_type = Option<String>, format = DateTime)]
    published_at: Option<Timestamp>,
    /// The mail server took the first mail.
    #[schema(value_type = Option<String>, format = DateTime)]
    first_mail_at: Option<Timestamp>,
    /// The mail server took the last mail.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_mail_at: Option<Timestamp>,
}

/// Deliveries by state.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryCounts)]
pub(crate) struct DeliveriesView {
    /// All of them.
    total: u64,
    /// Due, or due later.
    pending: u64,
    /// Under way.
    sending: u64,
    /// Taken by the mail server.
    sent: u64,
    /// No longer wanted.
    suppressed: u64,
    /// Given up.
    failed: u64,
}

impl From<DeliveryCounts> for DeliveriesView {
    fn from(counts: DeliveryCounts) -> Self {
        let DeliveryCounts { pending, sending, sent, suppressed, failed } = counts;
        Self { total: counts.total(), pending, sending, sent, suppressed, failed }
    }
}

/// One mail to one recipient.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(crate) struct DeliveryView {
    /// To whom: see `GET /v1/subscriptions/{id}`.
    #[schema(value_type = String, format = "uuid")]
    subscription_id: SubscriptionId,
    /// item or confirmation.
    #[schema(value_type = String)]
    kind: DeliveryKind,
    /// 0; a replay to all is a new round.
    round: u32,
    /// pending, sending, sent, suppressed, failed.
    #[schema(value_type = String)]
    state: DeliveryState,
    /// When it is due, while it is pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    due_at: Option<Timestamp>,
    /// Attempts that counted.
    attempts: u32,
    /// Of these, how many ended with an unknown outcome.
    unknowns: u32,
    /// The mail server's newest answers, oldest first, with addresses cut out.
    answers: Vec<AnswerView>,
    /// When it was planned.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When the mail server took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    sent_at: Option<Timestamp>,
}

/// What a mail server answered to one attempt.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Answer)]
pub(crate) struct AnswerView {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    answered_at: Timestamp,
    /// The command: connect, greeting, ehlo, starttls, tls, auth, mail, rcpt, data, message.
    phase: String,
    /// The reply code, 0 where none came.
    code: u16,
    /// The reply, or what went wrong.
    text: String,
}

impl From<Answer> for AnswerView {
    fn from(Answer { at, phase, code, text }: Answer) -> Self {
        Self { answered_at: at, phase, code, text }
    }
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        Self {
            subscription_id: delivery.key.subscription,
            kind: delivery.kind,
            round: delivery.key.round,
            state: delivery.state,
            due_at: (delivery.state == DeliveryState::Pending).then_some(delivery.due_at),
            attempts: delivery.attempts,
            unknowns: delivery.unknowns,
            answers: delivery.answers.into_iter().map(AnswerView::from).collect(),
            created_at: delivery.created_at,
            sent_at: delivery.sent_at,
        }
    }
}

/// A page of a list, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// The entries.
    data: Vec<T>,
    /// What to ask the next page with; null on the last.
    next_cursor: Option<String>,
}

impl<T> List<T> {
    pub(crate) fn of<U: Into<T>>(page: Page<U>) -> Self {
        Self { data: page.data.into_iter().map(Into::into).collect(), next_cursor: page.next_cursor }
    }
}

pub(crate) fn status(
    id: MessageId,
    state: MessageState,
    timeline: &Timeline,
    message: Option<MessageView>,
) -> StatusView {
    StatusView {
        id,
        state,
        summary: summary(state, timeline),
        timeline: TimelineView {
            accepted_at: timeline.accepted_at,
            stored_at: timeline.stored_at,
            captured_at: timeline.captured_at,
            published_at: timeline.published_at,
            first_mail_at: timeline.first_mail_at,
            last_mail_at: timeline.last_mail_at,
        },
        deliveries: timeline.deliveries.into(),
        dead_letters: timeline.dead_letters,
        message,
    }
}

/// The state in words.
fn summary(state: MessageState, timeline: &Timeline) -> String {
    let counts = &timeline.deliveries;
    let total = counts.total();
    match state {
        MessageState::Accepted => "taken by the broker, not stored yet".to_owned(),
        MessageState::Stored => "stored, its notification not taken by the mailer yet".to_owned(),
        MessageState::Notified if total == 0 => "being notified: who gets a mail is being looked up".to_owned(),
        MessageState::Notified => {
            format!("being notified: the mail server took {} of {total} mails so far", counts.sent)
        }
        MessageState::Done if total == 0 => {
            "done with zero recipients: nobody with a confirmed subscription to the topic (and a filter that matches) \
             was there, so nobody got a mail"
                .to_owned()
        }
        MessageState::Done if counts.suppressed > 0 => format!(
            "done: the mail server took {} of {total} mails, {} no longer wanted",
            counts.sent, counts.suppressed
        ),
        MessageState::Done => format!("done: the mail server took {} of {total} mails", counts.sent),
        MessageState::DeadLetter => format!(
            "cannot go on: {} dead letters, {} of {total} mails sent; see /v1/dead-letters?message_id={}",
            timeline.dead_letters, counts.sent, timeline.id
        ),
    }
}
