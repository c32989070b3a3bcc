//! Reading messages: lists, one with its state and timeline, its deliveries.

use axum::extract::State;
use serde::Deserialize;
use tidings_domain::{
    api_key::Scope,
    id::MessageId,
    ports::ItemQuery,
    status::{MessageState, Timeline},
};
use utoipa::IntoParams;

use crate::{
    api::Shared,
    auth::Caller,
    extract::{IdPath, Json, Query, optional, page, time, topic_name, wait},
    message_view::{DeliveryView, List, MessageView, StatusView, status},
    problem::{Problem, ProblemBody, Result},
};

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
    let page = page.map_err(|error| Problem::from_list(&error, "list messages"))?;
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
    let port = |error| Problem::from_list(&error, "list deliveries");
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
