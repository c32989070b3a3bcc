//! What a path and a query say, with problems where the framework would answer in plain text.

use std::{str::FromStr, time::Duration};

use axum::{
    extract::{FromRequestParts, rejection::QueryRejection},
    http::request::Parts,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use tidings_domain::{
    id::{DeadLetterId, MessageId, SubscriptionId},
    page::{MAX_LIMIT, PageRequest},
    time::Timestamp,
    topic::TopicName,
};

use crate::problem::{Problem, Result};

/// The one parameter of a path, as text.
pub(crate) struct PathText(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathText {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let path = axum::extract::Path::<String>::from_request_parts(parts, state).await;
        path.map(|path| Self(path.0)).map_err(|error| {
            Problem::bad("bad-path", "The path cannot be read", error.body_text())
                .mend("percent-encode it as UTF-8")
        })
    }
}

/// The topic that a path names.
pub(crate) struct TopicPath(pub(crate) TopicName);

impl<S: Send + Sync> FromRequestParts<S> for TopicPath {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let PathText(name) = PathText::from_request_parts(parts, state).await?;
        topic_name(&name).map(Self)
    }
}

/// Reads a topic name.
pub(crate) fn topic_name(name: &str) -> Result<TopicName> {
    TopicName::parse(name).map_err(|error| {
        Problem::bad("bad-topic-name", "Not a topic name", format!("{name:?} is none: {error}"))
    })
}

/// The id that a path names.
pub(crate) struct IdPath<T>(pub(crate) T);

/// An id that a path can name.
pub(crate) trait PathId: Sized {
    /// Reads its text.
    fn read(text: &str) -> Option<Self>;
}

impl PathId for MessageId {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl PathId for SubscriptionId {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl PathId for DeadLetterId {
    fn read(text: &str) -> Option<Self> {
        Self::parse(text)
    }
}

impl PathId for u64 {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl<S: Send + Sync, T: PathId> FromRequestParts<S> for IdPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let PathText(text) = PathText::from_request_parts(parts, state).await?;
        T::read(&text)
            .map(Self)
            .ok_or_else(|| Problem::bad("bad-id", "Not an id", format!("{text:?} is no id of this kind")))
    }
}

/// The query; a parameter that is not known is named.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        axum::extract::Query::try_from_uri(&parts.uri).map(|query| Self(query.0)).map_err(|error| {
            let detail = match &error {
                QueryRejection::FailedToDeserializeQueryString(inner) => {
                    std::error::Error::source(inner).map_or_else(|| inner.to_string(), ToString::to_string)
                }
                other => other.body_text(),
            };
            Problem::bad("bad-parameter", "A parameter is not valid", detail)
        })
    }
}

/// Reads what is not there or empty as none, and anything else by `FromStr`.
pub(crate) fn optional<'de, D: Deserializer<'de>, T: FromStr>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error>
where
    T::Err: std::fmt::Display,
{
    let text = Option::<String>::deserialize(deserializer)?.filter(|text| !text.is_empty());
    text.map(|text| text.parse().map_err(|error| serde::de::Error::custom(format!("{text:?}: {error}"))))
        .transpose()
}

/// Which page is asked for.
pub(crate) fn page(limit: Option<u32>, cursor: Option<String>) -> Result<PageRequest> {
    let page = PageRequest::default();
    let limit = limit.unwrap_or(page.limit);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::parameter("limit", format!("limit is 1 to {MAX_LIMIT}, not {limit}")));
    }
    Ok(PageRequest { limit, cursor: cursor.filter(|cursor| !cursor.is_empty()) })
}

/// Reads a time.
pub(crate) fn time(name: &str, text: Option<String>) -> Result<Option<Timestamp>> {
    text.filter(|text| !text.is_empty())
        .map(|text| {
            Timestamp::parse(&text).ok_or_else(|| {
                let detail =
                    format!("{name} is a time such as 2026-01-31T12:00:00Z (RFC 3339), not {text:?}");
                Problem::parameter(name, detail)
            })
        })
        .transpose()
}

/// Reads a length of time: `30s`, `500ms`, `1m` or bare seconds; more than `most` is `most`.
pub(crate) fn wait(text: Option<&str>, most: Duration) -> Result<Duration> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Duration::ZERO) };
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        _ => 0,
    };
    match number.parse::<u64>() {
        Ok(number) if millis > 0 => Ok(Duration::from_millis(number.saturating_mul(millis)).min(most)),
        _ => Err(Problem::parameter("wait", format!("wait is a time such as 30s or 500ms, not {text:?}"))),
    }
}

/// A JSON response.
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        let json =
            serde_json::to_vec(&self.0).expect("what we answer with is texts, numbers and JSON values");
        json_bytes(json.into())
    }
}

/// A response of JSON that is written already.
pub(crate) fn json_bytes(json: Bytes) -> Response {
    let mut response = Response::new(axum::body::Body::from(json));
    let content_type = axum::http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(axum::http::header::CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_a_unit_and_an_end() {
        let most = Duration::from_secs(60);
        let millis = |text| wait(Some(text), most).unwrap().as_millis();
        assert_eq!(
            ["30s", "500ms", "1m", "2", "1h0"].map(|text| wait(Some(text), most).is_ok()),
            [true, true, true, true, false]
        );
        assert_eq!((millis("30s"), millis("500ms"), millis("9m"), millis("2")), (30_000, 500, 60_000, 2_000));
        assert_eq!(wait(None, most).unwrap(), Duration::ZERO);
        for bad in ["s", "-1s", "1.5s", "1 s", "99999999999999999999s"] {
            assert!(wait(Some(bad), most).is_err(), "{bad}");
        }
    }
}
