//! The links of mails: a page with one button, which does it (scanners open links, so a GET changes nothing), and the one
//! click of RFC 8058. The token is the right to act: no key, no origin is asked for.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use tidings_domain::{
    subscription::{Act, Acted, Subscription, SubscriptionState},
    token::{InvalidToken, Token},
    topic::TopicName,
};
use utoipa::ToSchema;

use crate::{
    api::Shared,
    extract::{Json, PathText},
    html,
    limits::{MAX_FORM_BYTES, read_body},
    problem::{Problem, ProblemBody, Result},
};

/// What a link is about.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Link)]
pub(crate) struct LinkView {
    /// confirm or unsubscribe.
    act: &'static str,
    /// Of which topic.
    #[schema(value_type = String)]
    topic: TopicName,
    /// The subscription's state: pending, confirmed, unsubscribed.
    #[schema(value_type = String)]
    state: SubscriptionState,
}

fn word(act: Act) -> &'static str {
    match act {
        Act::Confirm => "confirm",
        Act::Unsubscribe => "unsubscribe",
    }
}

/// Show what a confirm link does.
#[utoipa::path(
    get, path = "/confirm/{token}", tag = "links", security(()),
    params(("token" = String, Path, description = "The mail's token")),
    responses(
        (status = 200, description = "A page with a button; JSON unless text/html is accepted",
            content((String = "text/html"), (LinkView = "application/json"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show_confirm(
    State(api): State<Shared>,
    PathText(token): PathText,
    headers: HeaderMap,
) -> Response {
    answer(&headers, show(&api, &token, Act::Confirm).await)
}

/// Confirm a subscription.
#[utoipa::path(
    post, path = "/confirm/{token}", tag = "links", security(()),
    params(("token" = String, Path, description = "The mail's token")),
    responses(
        (status = 200, description = "Confirmed; asked again it is the same",
            content((String = "text/html"), (LinkView = "application/json"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn confirm(
    State(api): State<Shared>,
    PathText(token): PathText,
    headers: HeaderMap,
) -> Response {
    answer(&headers, act(&api, &token, Act::Confirm).await)
}

/// Show what an unsubscribe link does.
#[utoipa::path(
    get, path = "/unsubscribe/{token}", tag = "links", security(()),
    params(("token" = String, Path, description = "The mail's token")),
    responses(
        (status = 200, description = "A page with a button; JSON unless text/html is accepted",
            content((String = "text/html"), (LinkView = "application/json"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show_unsubscribe(
    State(api): State<Shared>,
    PathText(token): PathText,
    headers: HeaderMap,
) -> Response {
    answer(&headers, show(&api, &token, Act::Unsubscribe).await)
}

/// End a subscription.
///
/// Also RFC 8058's one click: a form with `List-Unsubscribe=One-Click` is answered with 200 and a word.
#[utoipa::path(
    post, path = "/unsubscribe/{token}", tag = "links", security(()),
    params(("token" = String, Path, description = "The mail's token")),
    request_body(content = Option<String>, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "Ended; asked again it is the same",
            content((String = "text/html"), (LinkView = "application/json"), (String = "text/plain"))),
        (status = "default", description = "A problem", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn unsubscribe(
    State(api): State<Shared>,
    PathText(token): PathText,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let body = match read_body(&api, &headers, body, MAX_FORM_BYTES).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let acted = act(&api, &token, Act::Unsubscribe).await;
    if !is_one_click(&body) {
        return answer(&headers, acted);
    }
    match acted {
        Err(problem) if problem.status() != StatusCode::GONE => problem.into_response(),
        // Also where there is no such subscription any more: what was wished for is so.
        _ => {
            let text = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            ([text], "unsubscribed\n").into_response()
        }
    }
}

/// Whether a body is RFC 8058's form, of either type (`multipart/form-data` or urlencoded).
fn is_one_click(body: &[u8]) -> bool {
    let has = |word: &[u8]| body.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word));
    has(b"List-Unsubscribe") && has(b"One-Click")
}

/// What is shown: the subscription, and whether there is a button to press.
struct Shown {
    act: Act,
    subscription: Subscription,
    is_done: bool,
}

fn answer(headers: &HeaderMap, outcome: Result<Shown>) -> Response {
    let shown = match outcome {
        Ok(shown) => shown,
        Err(problem) if html::is_wanted(headers) => return html::problem_page(problem),
        Err(problem) => return problem.into_response(),
    };
    if html::is_wanted(headers) {
        return page(&shown);
    }
    let Shown { act, subscription, .. } = shown;
    Json(LinkView { act: word(act), topic: subscription.topic, state: subscription.state }).into_response()
}

fn page(shown: &Shown) -> Response {
    let Subscription { topic, email, .. } = &shown.subscription;
    let (topic, email) = (html::escape(topic.as_str()), html::escape(email.as_str()));
    let button = |word: &str| format!("\n<form method=\"post\"><button>{word}</button></form>");
    let gets = format!("<strong>{email}</strong> gets mails of the topic <strong>{topic}</strong>");
    let (title, body) = match (shown.act, shown.is_done) {
        (Act::Confirm, false) => {
            let body = format!("<p>Once you confirm, {gets}.</p>{}", button("Confirm"));
            ("Confirm your subscription", body)
        }
        (Act::Confirm, true) => {
            ("Confirmed", format!("<p>From now on {gets}. Each has a link to end that.</p>"))
        }
        (Act::Unsubscribe, false) => {
            ("Unsubscribe", format!("<p>Now {gets}. End that?</p>{}", button("Unsubscribe")))
        }
        (Act::Unsubscribe, true) => (
            "Unsubscribed",
            format!(
                "<p><strong>{email}</strong> gets no more mails of the topic <strong>{topic}</strong>.</p>"
            ),
        ),
    };
    html::page(StatusCode::OK, title, &body)
}

/// What a link would do; nothing is changed.
async fn show(api: &Shared, text: &str, act: Act) -> Result<Shown> {
    let token = read(api, text, act)?;
    let found = api.context.subscriptions.get(&[token.subscription]).await;
    let found = found.map_err(|error| Problem::from_port(&error, "read the subscription"))?.pop().flatten();
    let subscription = found.ok_or_else(gone)?;
    let is_done = match act {
        Act::Confirm if token.generation != subscription.generation => return Err(stale()),
        Act::Confirm if subscription.state == SubscriptionState::Unsubscribed => return Err(stale()),
        Act::Confirm => subscription.state == SubscriptionState::Confirmed,
        Act::Unsubscribe => subscription.state == SubscriptionState::Unsubscribed,
    };
    Ok(Shown { act, subscription, is_done })
}

/// Does what a link is for.
async fn act(api: &Shared, text: &str, act: Act) -> Result<Shown> {
    let token = read(api, text, act)?;
    let now = api.context.clock.now();
    let acted = api.context.subscriptions.act(token.subscription, act, token.generation, now).await;
    match acted.map_err(|error| Problem::from_port(&error, word(act)))? {
        Acted::Done(subscription) | Acted::AlreadyDone(subscription) => {
            Ok(Shown { act, subscription, is_done: true })
        }
        Acted::Stale => Err(stale()),
        Acted::NotFound => Err(gone()),
    }
}

fn read(api: &Shared, text: &str, act: Act) -> Result<Token> {
    match Token::verify(text, &api.context.secret, api.context.clock.now()) {
        Ok(token) if token.act == act => Ok(token),
        Ok(_) | Err(InvalidToken::Forged) => {
            let detail = "the link is not one of ours, or a part of it is missing";
            Err(Problem::not_found("invalid-link", "The link is not valid", detail)
                .mend("open it as it stands in the mail, from https to the very end"))
        }
        Err(InvalidToken::Expired) => {
            let detail = "a link to confirm works for 48 hours, and this one is older";
            Err(Problem::new(StatusCode::GONE, "link-expired", "The link has expired", detail)
                .mend("ask for the subscription again: a new mail comes with a new link"))
        }
    }
}

fn stale() -> Problem {
    let detail = "the link is from before a later request, or from before an unsubscribe";
    Problem::new(StatusCode::GONE, "link-stale", "The link is not valid any more", detail)
        .mend("use the link of the newest mail, or ask for the subscription again")
}

fn gone() -> Problem {
    let detail = "the subscription that the link is about was removed";
    Problem::new(StatusCode::GONE, "subscription-gone", "The subscription is gone", detail)
        .mend("there is nothing to do: it gets no mails")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_click_comes_in_either_form() {
        assert!(is_one_click(b"List-Unsubscribe=One-Click"));
        assert!(is_one_click(
            b"--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--"
        ));
        assert!(!is_one_click(b""));
        assert!(!is_one_click(b"One-Click"));
    }
}
