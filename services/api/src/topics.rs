//! Topics: made, read, listed, removed.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use tidings_domain::{
    Error,
    api_key::Scope,
    page::{Page, PageRequest},
    ports::RemovedTopic,
    subscription::SubscriptionCounts,
    text::Subject,
    time::Timestamp,
    topic::{MESSAGES, Topic, TopicName},
};
use utoipa::ToSchema;

use crate::{
    api::Shared,
    auth::Caller,
    content::read_json,
    extract::{Json, Query, TopicPath},
    message_view::List,
    messages::PageQuery,
    problem::{Problem, ProblemBody, Result},
    publish::unknown_topic,
    subscriptions::read_json_body,
};

/// A topic with who is subscribed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Topic)]
pub(crate) struct TopicView {
    /// Its name.
    #[schema(value_type = String)]
    name: TopicName,
    /// The subject of mails whose message has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Its subscriptions by state.
    subscriptions: CountsView,
}

/// Subscriptions by state.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = SubscriptionCounts)]
pub(crate) struct CountsView {
    /// Asked for.
    pending: u64,
    /// Mailed.
    confirmed: u64,
    /// Ended.
    unsubscribed: u64,
}

/// What a topic is made with.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewTopic)]
pub(crate) struct NewTopic {
    /// The subject of mails whose message has none: 1 to 99 characters, no line breaks.
    subject: Option<String>,
}

fn view(topic: Topic, counts: Option<&SubscriptionCounts>) -> TopicView {
    let counts = counts.copied().unwrap_or_default();
    TopicView {
        name: topic.name,
        subject: topic.subject.map(|subject| subject.as_str().to_owned()),
        created_at: topic.created_at,
        subscriptions: CountsView {
            pending: counts.pending,
            confirmed: counts.confirmed,
            unsubscribed: counts.unsubscribed,
        },
    }
}

/// Make a topic, or replace its subject.
#[utoipa::path(
    put, path = "/v1/topics/{name}", tag = "topics",
    params(("name" = String, Path, description = "A lower-case letter, then up to 39 lower-case letters, digits or hyphens")),
    request_body(content = Option<NewTopic>, content_type = "application/json"),
    responses(
        (status = 201, description = "Made", body = TopicView),
        (status = 200, description = "It was there: its subject is replaced", body = TopicView),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn put_topic(
    State(api): State<Shared>,
    caller: Caller,
    TopicPath(name): TopicPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    caller.may(Scope::Admin, Some(&name))?;
    let body = read_json_body(&api, &headers, body).await?;
    let new: NewTopic = if body.is_empty() { NewTopic::default() } else { read_json(&body)? };
    let subject = new.subject.map(|subject| Subject::parse(&subject)).transpose().map_err(|error| {
        Problem::bad("bad-subject", "The subject cannot be carried", error.to_string())
            .with("field", "subject")
    })?;
    let port = |error: Error| Problem::from_port(&error, "make the topic");
    // The topology stands before the row says so: nobody is ever told of a topic that leads nowhere (promise 2).
    api.keeper.declare(std::slice::from_ref(&name)).await.map_err(port)?;
    let topic = Topic { name, subject, created_at: api.context.clock.now() };
    let (topic, is_new) = api.context.catalog.put_topic(&topic).await.map_err(port)?;
    api.copy.put_topic(topic.clone());
    let counts = if is_new { None } else { counts_of(&api, &topic.name).await? };
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(view(topic, counts.as_ref()))).into_response())
}

/// Read a topic.
#[utoipa::path(
    get, path = "/v1/topics/{name}", tag = "topics",
    params(("name" = String, Path, description = "Which topic")),
    responses(
        (status = 200, description = "The topic", body = TopicView),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_topic(
    State(api): State<Shared>,
    caller: Caller,
    TopicPath(name): TopicPath,
) -> Result<Json<TopicView>> {
    caller.may(Scope::Read, Some(&name))?;
    let found = api.context.catalog.topic(&name).await;
    let found = found.map_err(|error| Problem::from_port(&error, "read the topic"))?;
    let topic = found.ok_or_else(|| unknown_topic(&name))?;
    let counts = counts_of(&api, &name).await?;
    Ok(Json(view(topic, counts.as_ref())))
}

async fn counts_of(api: &Shared, name: &TopicName) -> Result<Option<SubscriptionCounts>> {
    let counts = api.context.subscriptions.counts().await;
    let counts = counts.map_err(|error| Problem::from_port(&error, "count subscriptions"))?;
    Ok(counts.get(name).copied())
}

/// List topics.
#[utoipa::path(
    get, path = "/v1/topics", tag = "topics", params(PageQuery),
    responses(
        (status = 200, description = "A page, newest first", body = List<TopicView>),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_topics(
    State(api): State<Shared>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<TopicView>>> {
    let request = query.page()?;
    let port = |error: Error| Problem::from_port(&error, "list topics");
    let mut topics = api.context.catalog.topics().await.map_err(port)?;
    topics.retain(|topic| caller.has(Scope::Read, Some(&topic.name)));
    if topics.is_empty() {
        caller.may(Scope::Read, None)?;
    }
    let counts = api.context.subscriptions.counts().await.map_err(port)?;
    let page = cut(topics, &request)?;
    let views = page.data.into_iter().map(|topic| {
        let counts = counts.get(&topic.name);
        view(topic, counts)
    });
    Ok(Json(List::of(Page { data: views.collect(), next_cursor: page.next_cursor })))
}

/// A page of topics, newest first, then by name.
fn cut(mut topics: Vec<Topic>, request: &PageRequest) -> Result<Page<Topic>> {
    let order = |topic: &Topic| (std::cmp::Reverse(topic.created_at), topic.name.clone());
    topics.sort_by_key(order);
    if let Some(cursor) = &request.cursor {
        let after = cursor.split_once('.').and_then(|(millis, name)| {
            let millis = i64::from_str_radix(millis, 16).ok()?;
            Some((std::cmp::Reverse(Timestamp::from_millis(millis)), TopicName::parse(name).ok()?))
        });
        let after = after.ok_or_else(|| {
            Problem::parameter("cursor", "the cursor was not made by this list").mend("begin without one")
        })?;
        topics.retain(|topic| order(topic) > after);
    }
    topics.truncate(request.limit as usize + 1);
    Ok(Page::cut(topics, request.limit, |topic| format!("{:x}.{}", topic.created_at.as_millis(), topic.name)))
}

/// Remove a topic that nobody is subscribed to.
#[utoipa::path(
    delete, path = "/v1/topics/{name}", tag = "topics",
    params(("name" = String, Path, description = "Which topic")),
    responses(
        (status = 204, description = "Removed"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete_topic(
    State(api): State<Shared>,
    caller: Caller,
    TopicPath(name): TopicPath,
) -> Result<StatusCode> {
    caller.may(Scope::Admin, Some(&name))?;
    if name.as_str() == MESSAGES {
        let detail = "the topic messages always exists";
        return Err(Problem::new(StatusCode::CONFLICT, "topic-stays", "The topic cannot be removed", detail));
    }
    let removed = api.context.catalog.remove_topic(&name).await;
    match removed.map_err(|error| Problem::from_port(&error, "remove the topic"))? {
        RemovedTopic::Removed => {
            api.copy.remove_topic(&name);
            Ok(StatusCode::NO_CONTENT)
        }
        RemovedTopic::NotFound => Err(unknown_topic(&name)),
        RemovedTopic::HasSubscribers => {
            let detail = format!("somebody is subscribed to topic {name}: nothing was changed");
            Err(Problem::new(StatusCode::CONFLICT, "has-subscribers", "The topic has subscribers", detail)
                .mend(format!(
                    "remove its subscriptions first: GET /v1/subscriptions?topic={name} lists them"
                )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_on_one_another() {
        let topic = |name: &str, millis| Topic {
            name: TopicName::parse(name).unwrap(),
            subject: None,
            created_at: Timestamp::from_millis(millis),
        };
        let topics = vec![topic("a", 1), topic("b", 3), topic("c", 1), topic("d", 2)];
        let (mut cursor, mut seen) = (None, Vec::new());
        loop {
            let page = cut(topics.clone(), &PageRequest { limit: 2, cursor }).unwrap();
            seen.extend(page.data.into_iter().map(|topic| topic.name.to_string()));
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, ["b", "d", "a", "c"]);
        assert!(cut(topics, &PageRequest { limit: 2, cursor: Some("x".into()) }).is_err());
    }
}
