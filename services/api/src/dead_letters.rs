//! Dead letters: what cannot go on and why, redriven or discarded by selection.

use std::collections::BTreeMap;

use axum::{body::Body, extract::State, http::HeaderMap};
use serde::{Deserialize, Serialize};
use tidings_domain::{
    Error,
    api_key::Scope,
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource},
    id::{DeadLetterId, SubscriptionId},
    time::Timestamp,
    topic::TopicName,
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::{
    api::Shared,
    auth::Caller,
    content::read_json,
    extract::{Json, Query, optional, page, topic_name},
    message_view::List,
    problem::{Problem, ProblemBody, Result},
    subscriptions::read_json_body,
};

/// The most ids of one selection.
const MAX_IDS: usize = 1_000;

/// One that cannot go on.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct DeadLetterView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: DeadLetterId,
    /// Where it came from: items, changes, mail, deliveries.
    #[schema(value_type = String)]
    queue: DeadLetterSource,
    /// Of which topic, where that is known.
    #[schema(value_type = Option<String>)]
    topic: Option<TopicName>,
    /// About which message, where that is known.
    #[schema(value_type = Option<String>, format = "uuid")]
    message_id: Option<Uuid>,
    /// To whom, where it is a delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    subscription_id: Option<SubscriptionId>,
    /// Why, in a word.
    reason: String,
    /// Why, in a sentence.
    detail: String,
    /// The headers that it came with.
    headers: BTreeMap<String, String>,
    /// The body that it came with; what is not UTF-8 is replaced.
    body: String,
    /// Bytes of the body.
    body_bytes: usize,
    /// Attempts that were made.
    attempts: u32,
    /// When it was written.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When it was marked for redrive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    marked_at: Option<Timestamp>,
}

impl From<DeadLetter> for DeadLetterView {
    fn from(letter: DeadLetter) -> Self {
        Self {
            id: letter.id,
            queue: letter.source,
            topic: letter.topic,
            message_id: letter.message_id,
            subscription_id: letter.delivery.map(|key| key.subscription),
            reason: letter.reason,
            detail: letter.detail,
            headers: letter.headers,
            body: String::from_utf8_lossy(&letter.body).into_owned(),
            body_bytes: letter.body.len(),
            attempts: letter.attempts,
            created_at: letter.created_at,
            marked_at: letter.marked_at,
        }
    }
}

/// Which dead letters are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeadLettersQuery {
    /// Where they came from: items, changes, mail, deliveries.
    queue: Option<String>,
    /// Of this topic.
    topic: Option<String>,
    /// With this reason.
    reason: Option<String>,
    /// About this message.
    message_id: Option<String>,
    /// These, separated by commas.
    ids: Option<String>,
    /// Entries at most: 50, at most 250.
    #[serde(default, deserialize_with = "optional")]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Which dead letters are meant; what is absent does not restrict.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterSelection)]
pub(crate) struct SelectionBody {
    /// Where they came from: items, changes, mail, deliveries.
    queue: Option<String>,
    /// Of this topic.
    topic: Option<String>,
    /// With this reason.
    reason: Option<String>,
    /// About this message.
    message_id: Option<String>,
    /// These.
    ids: Option<Vec<String>>,
    /// Has to be true where nothing else restricts.
    all: Option<bool>,
    /// Count only.
    dry_run: Option<bool>,
}

/// How many were meant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeadLetterCount)]
pub(crate) struct CountView {
    /// Marked anew, or discarded; of a dry run, how many are selected.
    count: u64,
    /// Whether nothing was changed.
    dry_run: bool,
}

/// List dead letters.
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "dead letters", params(DeadLettersQuery),
    responses(
        (status = 200, description = "A page, newest first", body = List<DeadLetterView>),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_dead_letters(
    State(api): State<Shared>,
    caller: Caller,
    Query(query): Query<DeadLettersQuery>,
) -> Result<Json<List<DeadLetterView>>> {
    let ids = query.ids.filter(|ids| !ids.is_empty());
    let selection = selection(SelectionBody {
        queue: query.queue,
        topic: query.topic,
        reason: query.reason,
        message_id: query.message_id,
        ids: ids.map(|ids| ids.split(',').map(|id| id.trim().to_owned()).collect()),
        ..SelectionBody::default()
    })?;
    caller.may(Scope::Read, selection.topic.as_ref())?;
    let page = page(query.limit, query.cursor)?;
    let page = api.context.dead_letters.list(&selection, &page).await;
    Ok(Json(List::of(page.map_err(|error| Problem::from_list(&error, "list dead letters"))?)))
}

/// Redrive dead letters.
///
/// They are marked; the service that each came from takes it up again and removes it once it is done.
#[utoipa::path(
    post, path = "/v1/dead-letters/redrive", tag = "dead letters",
    request_body(content = SelectionBody, content_type = "application/json"),
    responses(
        (status = 200, description = "Marked", body = CountView),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn redrive_dead_letters(
    State(api): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CountView>> {
    let (selection, dry_run) = selected(&api, &caller, &headers, body).await?;
    let letters = &api.context.dead_letters;
    let count = match dry_run {
        true => letters.count(&selection).await,
        false => letters.mark(&selection, api.context.clock.now()).await,
    };
    let count = count.map_err(|error| Problem::from_port(&error, "redrive dead letters"))?;
    Ok(Json(CountView { count, dry_run }))
}

/// Discard dead letters for good.
#[utoipa::path(
    post, path = "/v1/dead-letters/discard", tag = "dead letters",
    request_body(content = SelectionBody, content_type = "application/json"),
    responses(
        (status = 200, description = "Discarded", body = CountView),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn discard_dead_letters(
    State(api): State<Shared>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<CountView>> {
    let (selection, dry_run) = selected(&api, &caller, &headers, body).await?;
    let letters = &api.context.dead_letters;
    let count = if dry_run { letters.count(&selection).await } else { letters.discard(&selection).await };
    let count = count.map_err(|error: Error| Problem::from_port(&error, "discard dead letters"))?;
    Ok(Json(CountView { count, dry_run }))
}

async fn selected(
    api: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<(DeadLetterSelection, bool)> {
    if !matches!(caller, Caller::Key(key) if !key.topics.is_empty()) {
        caller.may(Scope::Admin, None)?;
    }
    let body = read_json_body(api, headers, body).await?;
    let told: SelectionBody = read_json(&body)?;
    let (all, dry_run) = (told.all == Some(true), told.dry_run == Some(true));
    let selection = selection(told)?;
    caller.may(Scope::Admin, selection.topic.as_ref())?;
    if selection == DeadLetterSelection::default() && !all {
        let detail = "nothing says which dead letters are meant";
        return Err(Problem::bad("no-selection", "Which ones?", detail).mend(
            "give queue, topic, reason, message_id or ids, or \"all\": true; \"dry_run\": true counts",
        ));
    }
    Ok((selection, dry_run))
}

fn selection(told: SelectionBody) -> Result<DeadLetterSelection> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let bad_id = |text: &str| Problem::bad("bad-id", "Not an id", format!("{text:?} is no UUID"));
    let uuid = |text: &str| Uuid::parse_str(text).map_err(|_| bad_id(text));
    let source = given(told.queue).map(|word| {
        DeadLetterSource::parse(&word).ok_or_else(|| {
            let words = DeadLetterSource::ALL.map(DeadLetterSource::as_str).join(", ");
            Problem::parameter("queue", format!("queue is one of {words}, not {word:?}"))
        })
    });
    let ids = told.ids.map(|ids| match ids.len() {
        count if count > MAX_IDS => {
            Err(Problem::parameter("ids", format!("at most {MAX_IDS} ids at once, not {count}")))
        }
        _ => ids.iter().map(|id| uuid(id).map(DeadLetterId)).collect(),
    });
    Ok(DeadLetterSelection {
        source: source.transpose()?,
        topic: given(told.topic).as_deref().map(topic_name).transpose()?,
        reason: given(told.reason),
        message_id: given(told.message_id).as_deref().map(uuid).transpose()?,
        ids: ids.transpose()?,
    })
}
