//! Subscriptions: asked for by anyone, listed and removed by admins. Addresses are shown to admins only.

use axum::{
    Extension,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings_domain::{
    Error,
    address::EmailAddress,
    api_key::Scope,
    filter::Filter,
    id::SubscriptionId,
    ports::SubscriptionQuery,
    subscription::{Subscription, SubscriptionRequest, SubscriptionState},
    time::Timestamp,
    topic::TopicName,
};
use utoipa::{IntoParams, ToSchema};

use crate::{
    api::Shared,
    auth::Caller,
    content::read_json,
    extract::{IdPath, Json, Query, TopicPath, optional, page, topic_name},
    front_door::RequestTrace,
    limits::{MAX_FORM_BYTES, read_body},
    message_view::List,
    problem::{Problem, ProblemBody, Result},
    publish::known_topic,
};

/// What everyone who asks is told, whatever the address and its state.
const ASKED: &str = "unless the address is subscribed already, it gets a mail with a link to confirm";

/// A wish to be mailed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewSubscription {
    /// To whom: one address.
    #[schema(format = "email")]
    email: String,
    /// Which messages: attribute names to lists of exact values (SNS syntax); none is all.
    #[schema(value_type = Option<Object>)]
    filter: Option<Value>,
    /// Consent is held already: no mail. Scope `admin` only.
    confirmed: Option<bool>,
}

/// The answer to a wish.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Asked {
    /// Always `accepted`.
    status: &'static str,
    /// What happens next.
    detail: &'static str,
    /// With scope `admin`: the subscription.
    #[serde(skip_serializing_if = "Option::is_none")]
    subscription: Option<SubscriptionView>,
}

/// Who is subscribed to what.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Subscription)]
pub(crate) struct SubscriptionView {
    /// Its id.
    #[schema(value_type = String, format = "uuid")]
    id: SubscriptionId,
    /// Of which topic.
    #[schema(value_type = String)]
    topic: TopicName,
    /// To whom.
    #[schema(value_type = String)]
    email: EmailAddress,
    /// Which messages; empty is all.
    #[schema(value_type = Object)]
    filter: Filter,
    /// pending, confirmed, unsubscribed.
    #[schema(value_type = String)]
    state: SubscriptionState,
    /// When it was first asked for.
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When the last confirmation mail was asked for.
    #[schema(value_type = String, format = DateTime)]
    requested_at: Timestamp,
    /// When it was confirmed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    confirmed_at: Option<Timestamp>,
    /// Who said that consent was held already.
    #[serde(skip_serializing_if = "Option::is_none")]
    confirmed_by: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    unsubscribed_at: Option<Timestamp>,
}

impl From<Subscription> for SubscriptionView {
    fn from(row: Subscription) -> Self {
        Self {
            id: row.id,
            topic: row.topic,
            email: row.email,
            filter: row.filter,
            state: row.state,
            created_at: row.created_at,
            requested_at: row.requested_at,
            confirmed_at: row.confirmed_at,
            confirmed_by: row.confirmed_by,
            unsubscribed_at: row.unsubscribed_at,
        }
    }
}

/// Ask for a subscription.
///
/// The answer is always the same; the address gets a confirmation mail, at most one per topic in ten minutes.
#[utoipa::path(
    post, path = "/v1/topics/{topic}/subscriptions", tag = "subscriptions",
    params(("topic" = String, Path, description = "Which topic")),
    request_body(content = NewSubscription, content_type = "application/json"),
    responses(
        (status = 202, description = "Asked for", body = Asked),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn post_subscription(
    State(api): State<Shared>,
    caller: Caller,
    Extension(RequestTrace(trace)): Extension<RequestTrace>,
    TopicPath(topic): TopicPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response> {
    caller.may(Scope::Subscribe, Some(&topic))?;
    known_topic(&api, &topic).await?;
    let body = read_json_body(&api, &headers, body).await?;
    let new: NewSubscription = read_json(&body)?;
    let by_admin = caller.has(Scope::Admin, Some(&topic));
    let confirmed = new.confirmed == Some(true);
    if confirmed {
        caller.may(Scope::Admin, Some(&topic))?;
    }
    let filter = new.filter.map(Filter::from_json).transpose().map_err(|error| {
        Problem::bad("bad-filter", "Not a filter", error.to_string())
            .with("field", "filter")
            .mend("for example {\"customer\": [\"acme\"], \"amount\": [10, 20]}")
    })?;
    let context = &api.context;
    let request = SubscriptionRequest {
        new_id: SubscriptionId::new(&*context.clock, &*context.entropy),
        topic,
        email: address(&new.email).map_err(|problem| problem.with("field", "email"))?,
        filter: filter.unwrap_or_default(),
        confirmed_by: confirmed.then(|| caller.publisher().to_owned()),
        by_admin,
        at: context.clock.now(),
    };
    let requested = context.subscriptions.request(&request, &trace).await;
    let requested = requested.map_err(|error| Problem::from_port(&error, "ask for the subscription"))?;
    let subscription = by_admin.then(|| SubscriptionView::from(requested.subscription));
    let asked = Asked { status: "accepted", detail: ASKED, subscription };
    Ok((StatusCode::ACCEPTED, Json(asked)).into_response())
}

/// A body that has to be JSON, whatever its type is called (curl calls it a form), unless it is called something else.
pub(crate) async fn read_json_body(api: &Shared, headers: &HeaderMap, body: Body) -> Result<bytes::Bytes> {
    let content_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !matches!(essence.as_str(), "" | "application/json" | "application/x-www-form-urlencoded") {
        let detail = format!("the content type is {content_type:?}");
        let (status, title) = (StatusCode::UNSUPPORTED_MEDIA_TYPE, "The content type is not taken");
        return Err(Problem::new(status, "content-type", title, detail)
            .mend("send application/json")
            .with("supported", vec!["application/json"]));
    }
    read_body(api, headers, body, MAX_FORM_BYTES).await
}

fn address(text: &str) -> Result<EmailAddress> {
    EmailAddress::parse(text).map_err(|error| {
        Problem::bad("bad-address", "Not an address that we mail to", error.to_string())
            .mend("give one plain address such as ann@example.com, without a display name")
    })
}

/// Which subscriptions are listed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SubscriptionsQuery {
    /// Of this topic.
    topic: Option<String>,
    /// Of this address.
    email: Option<String>,
    /// pending, confirmed or unsubscribed.
    state: Option<String>,
    /// Entries at most: 50, at most 250.
    #[serde(default, deserialize_with = "optional")]
    limit: Option<u32>,
    /// The `next_cursor` of the page before.
    cursor: Option<String>,
}

/// List subscriptions.
#[utoipa::path(
    get, path = "/v1/subscriptions", tag = "subscriptions", params(SubscriptionsQuery),
    responses(
        (status = 200, description = "A page, newest first", body = List<SubscriptionView>),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list_subscriptions(
    State(api): State<Shared>,
    caller: Caller,
    Query(query): Query<SubscriptionsQuery>,
) -> Result<Json<List<SubscriptionView>>> {
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
    let topic = given(query.topic).as_deref().map(topic_name).transpose()?;
    caller.may(Scope::Admin, topic.as_ref())?;
    let email = given(query.email).as_deref().map(address).transpose();
    let state = given(query.state).map(|word| {
        SubscriptionState::parse(&word).ok_or_else(|| {
            Problem::parameter("state", format!("state is pending, confirmed or unsubscribed, not {word:?}"))
        })
    });
    let query = SubscriptionQuery {
        topic,
        email: email.map_err(|problem| problem.with("parameter", "email"))?,
        state: state.transpose()?,
        page: page(query.limit, query.cursor)?,
    };
    let page = api.context.subscriptions.list(&query).await;
    Ok(Json(List::of(page.map_err(|error| Problem::from_list(&error, "list subscriptions"))?)))
}

/// Read a subscription.
#[utoipa::path(
    get, path = "/v1/subscriptions/{id}", tag = "subscriptions",
    params(("id" = String, Path, format = "uuid", description = "Which subscription")),
    responses(
        (status = 200, description = "The subscription", body = SubscriptionView),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn get_subscription(
    State(api): State<Shared>,
    caller: Caller,
    IdPath(id): IdPath<SubscriptionId>,
) -> Result<Json<SubscriptionView>> {
    Ok(Json(subscription(&api, &caller, id).await?.into()))
}

/// Remove a subscription and its address.
#[utoipa::path(
    delete, path = "/v1/subscriptions/{id}", tag = "subscriptions",
    params(("id" = String, Path, format = "uuid", description = "Which subscription")),
    responses(
        (status = 204, description = "Removed"),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete_subscription(
    State(api): State<Shared>,
    caller: Caller,
    IdPath(id): IdPath<SubscriptionId>,
) -> Result<StatusCode> {
    subscription(&api, &caller, id).await?;
    let removed = api.context.subscriptions.remove(id).await;
    match removed.map_err(|error| Problem::from_port(&error, "remove the subscription"))? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown(id)),
    }
}

/// The subscription that an admin (of its topic) asks for.
async fn subscription(api: &Shared, caller: &Caller, id: SubscriptionId) -> Result<Subscription> {
    let port = |error: Error| Problem::from_port(&error, "read the subscription");
    let found = api.context.subscriptions.get(&[id]).await.map_err(port)?.pop().flatten();
    match &found {
        Some(row) => caller.may(Scope::Admin, Some(&row.topic))?,
        None => caller.may(Scope::Admin, None)?,
    }
    found.ok_or_else(|| unknown(id))
}

fn unknown(id: SubscriptionId) -> Problem {
    Problem::not_found(
        "unknown-subscription",
        "No such subscription",
        format!("there is no subscription {id}"),
    )
}
