//! Publishing one message: `POST /v1/topics/{topic}/messages` and `POST /publishtopic`.

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use serde::Serialize;
use tidings_domain::{
    Error, ErrorKind,
    api_key::Scope,
    id::MessageId,
    idempotency::{Fingerprint, MAX_KEY_BYTES, is_key},
    message::Message,
    ports::{Admission, Bucket, BusTopic, Request},
    text::MAX_MESSAGE_BYTES,
    time::Timestamp,
    topic::{Topic, TopicName},
    trace_context::TraceContext,
    wire,
};
use tidings_runtime::telemetry::Span;
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;

use crate::{
    api::Shared,
    auth::Caller,
    content::{Draft, Form, bad_text},
    extract::{Json, TopicPath, json_bytes},
    front_door::RequestTrace,
    limits::{MAX_JSON_BYTES, read_body},
    problem::{Problem, ProblemBody, Result},
};

const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// What `POST /publishtopic` has always answered.
const PUBLISHED: &[u8] = br#""A new message has been published""#;

/// A message that was taken.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Accepted {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    pub(crate) id: MessageId,
    /// Its topic.
    #[schema(value_type = String)]
    pub(crate) topic: TopicName,
    /// When it was taken.
    #[schema(value_type = String, format = DateTime)]
    pub(crate) accepted_at: Timestamp,
    /// Where its state is.
    pub(crate) status_url: String,
}

impl Accepted {
    pub(crate) fn of(message: &Message) -> Self {
        Self {
            id: message.id,
            topic: message.topic.clone(),
            accepted_at: message.accepted_at,
            status_url: status_url(message.id),
        }
    }
}

fn status_url(id: MessageId) -> String {
    format!("/v1/messages/{id}")
}

/// Publish a message.
///
/// 202 is given only after the broker has confirmed it and routed it to our queue. Where that is not known, the answer is
/// 503 with the message's `id`; the same request with the same `Idempotency-Key` is the same message.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/messages", tag = "messages",
    params(
        ("topic" = String, Path, description = "Which topic"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 bytes: the same key is the same message"),
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context, continued through to the mail"),
    ),
    request_body(description = "The text as it is, one JSON object, or one JSON object a line (at most 1,000)", content(
        (String = "text/plain"), (crate::content::Posted<'_> = "application/json"),
        (crate::content::PostedLine<'_> = "application/x-ndjson"),
    )),
    responses(
        (status = 202, description = "Taken", body = Accepted, headers(("Location" = String, description = "Its status"))),
        (status = 200, description = "A batch: each an id or a problem", body = crate::batch::BatchResults),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn post_message(
    State(api): State<Shared>,
    caller: Caller,
    Extension(RequestTrace(trace)): Extension<RequestTrace>,
    TopicPath(topic): TopicPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    caller.may(Scope::Publish, Some(&topic))?;
    let form = Form::of(&headers)?;
    known_topic(&api, &topic).await?;
    let draft = match form {
        Form::Ndjson => return crate::batch::post_batch(&api, &caller, &trace, &topic, &headers, body).await,
        Form::Text { content_type } => {
            Draft::of_text(&read_body(&api, &headers, body, MAX_MESSAGE_BYTES).await?, content_type)?
        }
        Form::Json => Draft::of_json(&read_body(&api, &headers, body, MAX_JSON_BYTES).await?)?,
    };
    let message = publish_one(&api, &caller, &trace, topic, &headers, draft).await?;
    let location = HeaderValue::try_from(status_url(message.id)).expect("a path of a UUID is visible ASCII");
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(Accepted::of(&message))).into_response())
}

/// Publish a text to the topic `messages`.
#[utoipa::path(
    post, path = "/publishtopic", tag = "messages",
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 bytes: the same key is the same message")),
    request_body(content = String, content_type = "text/plain"),
    responses(
        (status = 200, description = "Taken: always this string", body = String, content_type = "application/json",
            example = "A new message has been published"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn post_to_messages(
    State(api): State<Shared>,
    caller: Caller,
    Extension(RequestTrace(trace)): Extension<RequestTrace>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    let topic = TopicName::messages();
    caller.may(Scope::Publish, Some(&topic))?;
    let Form::Text { content_type } = Form::of_any_text(&headers)? else {
        unreachable!("any text is read as text");
    };
    known_topic(&api, &topic).await?;
    let draft = Draft::of_text(&read_body(&api, &headers, body, MAX_MESSAGE_BYTES).await?, content_type)?;
    publish_one(&api, &caller, &trace, topic, &headers, draft).await?;
    Ok(json_bytes(Bytes::from_static(PUBLISHED)))
}

/// The topic, or 404 that says how to make it.
pub(crate) async fn known_topic(api: &Shared, name: &TopicName) -> Result<Topic> {
    api.copy.topic(name).await?.ok_or_else(|| unknown_topic(name))
}

pub(crate) fn unknown_topic(name: &TopicName) -> Problem {
    Problem::not_found("unknown-topic", "No such topic", format!("there is no topic {name}"))
        .mend(format!("make it first: PUT /v1/topics/{name}"))
}

async fn publish_one(
    api: &Shared,
    caller: &Caller,
    trace: &TraceContext,
    topic: TopicName,
    headers: &HeaderMap,
    draft: Draft,
) -> Result<Message> {
    let key = idempotency_key(headers)?;
    let mut message = message(api, caller, topic, key, draft)?;
    let fingerprints = key.map(|_| (message.id, Fingerprint::of(&message))).into_iter().collect();
    let different = admit(api, caller, 1, fingerprints).await?;
    if different.first() == Some(&true) {
        return Err(another_body(message.id));
    }
    let span = publish_span(api, trace, &mut message);
    let outcome = send(api, &message.topic, std::slice::from_ref(&message)).await.pop();
    settle(api, span, message, key.is_some(), outcome.unwrap_or(Ok(()))).await
}

async fn settle(
    api: &Shared,
    mut span: Span,
    message: Message,
    has_key: bool,
    outcome: tidings_domain::Result<()>,
) -> Result<Message> {
    match outcome {
        Ok(()) => {
            remember(api, &[message.id]).await;
            Ok(message)
        }
        Err(error) => {
            span.fail(error.kind.as_str(), error.context.clone());
            if error.kind == ErrorKind::Rejected && has_key {
                forget(api, &[message.id]).await;
            }
            Err(not_published(&error, message.id, has_key))
        }
    }
}

/// The key of the request's header.
pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(key) if values.next().is_none() && is_key(key) => Ok(Some(key)),
        _ => Err(bad_key()),
    }
}

pub(crate) fn bad_key() -> Problem {
    let detail =
        format!("an idempotency key is one text of 1 to {MAX_KEY_BYTES} bytes without control characters");
    Problem::bad("bad-idempotency-key", "Not an idempotency key", detail)
        .mend("a UUID made anew for each message does well")
}

/// The message that `draft` becomes.
pub(crate) fn message(
    api: &Shared,
    caller: &Caller,
    topic: TopicName,
    key: Option<&str>,
    draft: Draft,
) -> Result<Message> {
    let context = &api.context;
    let id = match key {
        Some(key) => MessageId::idempotent(&context.settings.namespace, caller.publisher(), &topic, key),
        None => MessageId::new(&*context.clock, &*context.entropy),
    };
    let message = Message {
        id,
        topic,
        text: draft.text,
        subject: draft.subject,
        content_type: draft.content_type,
        attributes: draft.attributes,
        accepted_at: context.clock.now(),
        trace: TraceContext::default(),
    };
    message.check_size().map_err(|error| bad_text(&error))?;
    Ok(message)
}

/// Draws the cost and remembers fingerprints; answers which of them differ from what is remembered. Limits may be lost at
/// any time, so while they are away everything is admitted.
pub(crate) async fn admit(
    api: &Shared,
    caller: &Caller,
    cost: u32,
    fingerprints: Vec<(MessageId, Fingerprint)>,
) -> Result<Vec<bool>> {
    let settings = &api.context.settings;
    let (per_second, burst) = (settings.publish_per_second, settings.publish_burst);
    if per_second == 0 && fingerprints.is_empty() {
        return Ok(Vec::new());
    }
    let mut buckets = Vec::new();
    if per_second > 0 {
        buckets.push(Bucket { name: format!("publish/{}", caller.publisher()), per_second, burst });
    }
    let request = Request { buckets, cost, fingerprints };
    match api.context.limits.admit(&request, api.context.clock.now()).await {
        Ok(Admission::Go { different }) => Ok(different),
        Ok(Admission::Wait { retry_after }) => {
            let detail = format!(
                "this publisher may send {per_second} messages a second, {burst} at once: none was taken"
            );
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-fast", "Too many messages", detail)
                .mend("send it again after Retry-After")
                .retry_after(Some(retry_after)))
        }
        Err(error) => {
            tracing::warn!(error = error.chain(), "limits are away: everything is admitted");
            Ok(Vec::new())
        }
    }
}

pub(crate) fn another_body(id: MessageId) -> Problem {
    let detail = "another message was sent under this idempotency key before: this one was not taken";
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "another-body", "The key is another message's", detail)
        .with("id", id.to_string())
        .mend("use a new key for a new message; send a repeat with exactly the same topic, type, subject, text and attributes")
}

/// Begins the publish span of `message` and gives the message its context.
pub(crate) fn publish_span(api: &Shared, parent: &TraceContext, message: &mut Message) -> Span {
    let telemetry = &api.context.telemetry;
    let span = if telemetry.is_recording() {
        let destination = telemetry.topic_name(&BusTopic::Messages(message.topic.clone()));
        telemetry.publish_span(&destination, Some(&message.id.to_string()), parent)
    } else {
        Span::none(parent.clone())
    };
    message.trace = span.trace().clone();
    span
}

/// Publishes within the time that a publish may take; what was not confirmed by then is *unknown*. Where the topic or its
/// binding is missing it is declared anew, and those entries are sent once more.
pub(crate) async fn send(
    api: &Shared,
    topic: &TopicName,
    messages: &[Message],
) -> Vec<tidings_domain::Result<()>> {
    let began = Instant::now();
    let deadline = began + api.context.settings.publish_timeout();
    let mut outcomes = publish_by(api, topic, messages.iter(), deadline).await;
    let is_missing = |outcome: &tidings_domain::Result<()>| matches!(outcome, Err(error) if matches!(error.kind, ErrorKind::NotFound | ErrorKind::Misconfigured));
    let again: Vec<usize> = (0..outcomes.len()).filter(|&at| is_missing(&outcomes[at])).collect();
    if again.is_empty() {
        return outcomes;
    }
    match timeout_at(deadline, api.keeper.mend(topic, began)).await {
        Ok(Ok(())) => {
            let entries = again.iter().map(|&at| &messages[at]);
            let second = publish_by(api, topic, entries, deadline).await;
            for (at, outcome) in again.into_iter().zip(second) {
                outcomes[at] = outcome;
            }
        }
        Ok(Err(error)) => tracing::warn!(error = error.chain(), "cannot declare a topic that is missing"),
        Err(_) => tracing::warn!("no time left to declare a topic that is missing"),
    }
    outcomes
}

async fn publish_by<'a>(
    api: &Shared,
    topic: &TopicName,
    messages: impl ExactSizeIterator<Item = &'a Message>,
    deadline: Instant,
) -> Vec<tidings_domain::Result<()>> {
    let count = messages.len();
    let envelopes = messages.map(wire::message::encode).collect();
    let topic = BusTopic::Messages(topic.clone());
    let began = Instant::now();
    let outcomes = timeout_at(deadline, api.context.bus.publish(&topic, envelopes)).await;
    api.publish_duration.took(began.elapsed());
    match outcomes {
        Ok(outcomes) => outcomes,
        Err(_) => (0..count).map(|_| Err(Error::unknown("no confirm of the broker in time"))).collect(),
    }
}

/// Remembers that these were taken, so that their state is known before they are stored.
pub(crate) async fn remember(api: &Shared, ids: &[MessageId]) {
    if let Err(error) = api.context.limits.accepted(ids, api.context.clock.now()).await {
        tracing::debug!(error = error.chain(), "cannot remember what was accepted");
    }
}

pub(crate) async fn forget(api: &Shared, ids: &[MessageId]) {
    if let Err(error) = api.context.limits.forget(ids).await {
        tracing::debug!(error = error.chain(), "cannot forget fingerprints of what was refused");
    }
}

/// A publish that was not confirmed.
pub(crate) fn not_published(error: &Error, id: MessageId, has_key: bool) -> Problem {
    let again = if has_key {
        "send it again with the same idempotency key after Retry-After: it stays one message"
    } else {
        "send it again after Retry-After; under an Idempotency-Key a repeat stays one message, whatever happened to the first"
    };
    let unavailable = StatusCode::SERVICE_UNAVAILABLE;
    let problem = match error.kind {
        ErrorKind::Rejected => {
            let detail = "the broker does not take it as it is (it may be too large with its headers): it was not taken";
            Problem::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "refused-by-broker",
                "The broker refuses it",
                detail,
            )
        }
        ErrorKind::Unknown | ErrorKind::Transient => {
            let detail = "the broker did not confirm it in time, so it may have been taken or not";
            Problem::new(unavailable, "outcome-unknown", "Whether it was taken is not known", detail)
                .mend(again)
                .retry_after(error.retry_after)
        }
        _ => {
            let detail = "the broker cannot be reached or is not set up: it was not taken";
            Problem::new(unavailable, "not-accepted", "It was not taken", detail)
                .mend(again)
                .retry_after(error.retry_after)
        }
    };
    problem.with("id", id.to_string()).caused_by(error)
}
