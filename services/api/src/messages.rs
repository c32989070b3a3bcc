//! Reading messages: lists, one with its state and timeline, its deliveries.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use tidings_domain::{
    api_key::Scope,
    attributes::Attributes,
    delivery::{Answer, Delivery, DeliveryKind, DeliveryState},
    id::{MessageId, SubscriptionId},
    item::Item,
    page::Page,
    ports::ItemQuery,
    status::{DeliveryCounts, MessageState, Timeline},
    time::Timestamp,
    topic::TopicName,
};
use utoipa::{IntoParams, ToSchema};

use crate::{
    api::Shared,
    auth::Caller,
    extract::{IdPath, Json, Query, optional, page, time, topic_name, wait},
    problem::{Problem, ProblemBody, Result},
};

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
    /// The command: connect, greeting, ehlo, starttls, auth, mail, rcpt, data, message.
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

/// Which messages are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct MessagesQuery {
    /// Of this topic.
    topic: Option<String>,
    /// Stored at this time (RFC 3339) or later.
    since: Option<String>,
    /// Stored before this time.
    until: Option<String>,
    /// Entries at most: 50, at most 250.
    #[serde(default, deserialize_with = "optional")]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List messages.
#[utoipa::path(
    get, path = "/v1/messages", tag = "messages", params(MessagesQuery),
    responses(
        (status = 200, description = "A page, newest first", body = List<MessageView>),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_messages(
    State(api): State<Shared>,
    caller: Caller,
    Query(query): Query<MessagesQuery>,
) -> Result<Json<List<MessageView>>> {
    let topic = query.topic.as_deref().filter(|name| !name.is_empty()).map(topic_name).transpose()?;
    caller.may(Scope::Read, topic.as_ref())?;
    let query = ItemQuery {
        topic,
        since: time("since", query.since)?,
        until: time("until", query.until)?,
        page: page(query.limit, query.cursor)?,
    };
    let page = api.context.items.list(&query).await;
    let page = page.map_err(|error| Problem::from_port(&error, "list messages"))?;
    Ok(Json(List::of(page)))
}

/// How long to wait for what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitQuery {
    /// Answer when it is done or a dead letter, at the latest after this time: `30s`, `500ms`; at most 60s.
    wait: Option<String>,
    /// With `wait`: answer when it is past this state (accepted, stored, notified).
    after: Option<String>,
}

/// A message with its state.
#[utoipa::path(
    get, path = "/v1/messages/{id}", tag = "messages",
    params(("id" = String, Path, format = "uuid", description = "Which message"), WaitQuery),
    responses(
        (status = 200, description = "What is known of it", body = StatusView),
        (status = "default", description = "A problem; 404 not-stored-yet where nothing is known of it (yet)",
            body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_message(
    State(api): State<Shared>,
    caller: Caller,
    IdPath(id): IdPath<MessageId>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<StatusView>> {
    if !caller.has(Scope::Read, None) && !is_bound(&caller) {
        caller.may(Scope::Read, None)?;
    }
    let wait = wait(query.wait.as_deref(), api.context.settings.max_wait())?;
    let after = query.after.as_deref().filter(|after| !after.is_empty()).map(state_to_pass).transpose()?;
    let port = |error| Problem::from_port(&error, "read the message");
    let timeline = api.waiting.timeline(id, wait, after).await.map_err(port)?;
    let item = match timeline.stored_at {
        Some(_) => api.context.items.get(&[id]).await.map_err(port)?.pop().flatten(),
        None => None,
    };
    if let Some(item) = &item
        && !caller.has(Scope::Read, Some(&item.message.topic))
    {
        return Err(not_stored_yet(id));
    }
    match timeline.state() {
        Some(state) => Ok(Json(status(id, state, &timeline, item.map(MessageView::from)))),
        None => accepted(&api, id).await,
    }
}

/// Whether it is a key bound to topics, which may read messages of these.
fn is_bound(caller: &Caller) -> bool {
    matches!(caller, Caller::Key(key) if key.topics.iter().any(|topic| key.allows(Scope::Read, Some(topic))))
}

/// What was just accepted is not stored yet, and known only as long as that is remembered.
async fn accepted(api: &Shared, id: MessageId) -> Result<Json<StatusView>> {
    let remembered = api.context.limits.is_accepted(&[id]).await.unwrap_or_else(|error| {
        tracing::debug!(error = error.chain(), "cannot ask what was accepted");
        Vec::new()
    });
    let accepted_at = remembered.into_iter().next().flatten().ok_or_else(|| not_stored_yet(id))?;
    let timeline = Timeline { accepted_at: Some(accepted_at), ..Timeline::unknown(id) };
    Ok(Json(status(id, MessageState::Accepted, &timeline, None)))
}

fn not_stored_yet(id: MessageId) -> Problem {
    let detail = format!("no message {id} is stored: not yet, no longer, or there never was one");
    Problem::not_found("not-stored-yet", "Nothing is known of this message", detail)
        .with("id", id.to_string())
        .mend("if it was just accepted, ask again after Retry-After, or wait for it with ?wait=10s")
        .retry_after(None)
}

fn state_to_pass(word: &str) -> Result<MessageState> {
    [MessageState::Accepted, MessageState::Stored, MessageState::Notified]
        .into_iter()
        .find(|state| state.as_str() == word)
        .ok_or_else(|| {
            Problem::parameter("after", format!("after is accepted, stored or notified, not {word:?}"))
        })
}

fn status(
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

/// Which page.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PageQuery {
    /// Entries at most: 50, at most 250.
    #[serde(default, deserialize_with = "optional")]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

impl PageQuery {
    pub(crate) fn page(self) -> Result<tidings_domain::page::PageRequest> {
        page(self.limit, self.cursor)
    }
}

/// A message's deliveries.
#[utoipa::path(
    get, path = "/v1/messages/{id}/deliveries", tag = "messages",
    params(("id" = String, Path, format = "uuid", description = "Which message"), PageQuery),
    responses(
        (status = 200, description = "One for each recipient, newest first", body = List<DeliveryView>),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_deliveries(
    State(api): State<Shared>,
    caller: Caller,
    IdPath(id): IdPath<MessageId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<DeliveryView>>> {
    let port = |error| Problem::from_port(&error, "list deliveries");
    if !caller.has(Scope::Read, None) && !is_bound(&caller) {
        caller.may(Scope::Read, None)?;
    }
    let request = query.page()?;
    let item = api.context.items.get(&[id]).await.map_err(port)?.pop().flatten();
    let Some(item) = item.filter(|item| caller.has(Scope::Read, Some(&item.message.topic))) else {
        return Err(not_stored_yet(id));
    };
    let page = api.context.deliveries.list(item.message.id.uuid(), &request).await.map_err(port)?;
    Ok(Json(List::of(page)))
}
