//! Every error of the HTTP surface: RFC 9457 problem+json with a stable `type`, a sentence, and the mend. The only file
//! that turns an error into a response.

use std::time::Duration;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use serde_json::{Map, Value};
use tidings_domain::{Error, ErrorKind};
use utoipa::ToSchema;

/// What every `type` begins with.
pub(crate) const TYPE_PREFIX: &str = "urn:tidings:problem:";

/// The media type of problems.
pub(crate) const MEDIA_TYPE: &str = "application/problem+json";

/// How long to wait when nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A result whose error is a problem.
pub(crate) type Result<T> = std::result::Result<T, Problem>;

/// What a client reads (RFC 9457). Further members depend on the `type`: `id`, `line`, `column`, `field`, `results`.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct ProblemBody {
    /// Which problem it is; stable.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The same in words.
    pub(crate) title: &'static str,
    /// The HTTP status.
    pub(crate) status: u16,
    /// What is wrong with this request, in a sentence.
    pub(crate) detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
    /// Members of this type of problem.
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) members: Map<String, Value>,
}

/// A problem on its way to becoming a response. Boxed, because results carry it everywhere.
#[derive(Debug)]
pub(crate) struct Problem(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    body: ProblemBody,
    retry_after: Option<Duration>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<String>,
}

/// The chain of the error behind a response, else what is wrong in our own words, for the one line that the front door logs.
/// Never part of the response.
#[derive(Clone, Debug)]
pub(crate) struct Cause(pub(crate) String);

impl Problem {
    /// A problem: its name (the end of `type`), its title, and what is wrong with this request.
    pub(crate) fn new(
        status: StatusCode,
        name: &str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        let body = ProblemBody {
            kind: format!("{TYPE_PREFIX}{name}"),
            title,
            status: status.as_u16(),
            detail: detail.into(),
            mend: None,
            members: Map::new(),
        };
        Self(Box::new(Inner { status, body, retry_after: None, headers: Vec::new(), cause: None }))
    }

    /// Says what to do about it.
    #[must_use]
    pub(crate) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.0.body.mend = Some(mend.into());
        self
    }

    /// Adds a member.
    #[must_use]
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.body.members.insert(name.to_owned(), value.into());
        self
    }

    /// Says when to try again.
    #[must_use]
    pub(crate) fn retry_after(mut self, after: Option<Duration>) -> Self {
        self.0.retry_after = Some(after.unwrap_or(RETRY_AFTER));
        self
    }

    /// Adds a header.
    #[must_use]
    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Keeps the chain of what is behind it for the log.
    #[must_use]
    pub(crate) fn caused_by(mut self, error: &Error) -> Self {
        self.0.cause = Some(error.chain());
        self
    }

    /// Ends the connection with the response: the rest of the request will not be read.
    #[must_use]
    pub(crate) fn closing(self) -> Self {
        self.header(header::CONNECTION, HeaderValue::from_static("close"))
    }

    /// What a client reads.
    pub(crate) fn body(&self) -> &ProblemBody {
        &self.0.body
    }

    /// The problem as JSON, for an answer that holds several.
    pub(crate) fn to_json(&self) -> Value {
        serde_json::to_value(&self.0.body).expect("a problem is texts, numbers and JSON values")
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.0.status
    }

    /// What is behind it, for the log.
    pub(crate) fn cause(&self) -> Option<Cause> {
        self.0.cause.clone().map(Cause)
    }

    // The problems that several files tell.

    /// Something about the request cannot be understood or breaks a rule.
    pub(crate) fn bad(name: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, name, title, detail)
    }

    /// A query parameter that is malformed.
    pub(crate) fn parameter(name: &str, detail: impl Into<String>) -> Self {
        Self::bad("bad-parameter", "A parameter is not valid", detail).with("parameter", name)
    }

    /// No such thing.
    pub(crate) fn not_found(name: &str, title: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, name, title, detail)
    }

    /// A failure of a port in a call that lists: what it can refuse is the cursor.
    pub(crate) fn from_list(error: &Error, doing: &str) -> Self {
        match error.kind {
            ErrorKind::Rejected => {
                Self::parameter("cursor", "the cursor was not made by this list").mend("begin without one")
            }
            _ => Self::from_port(error, doing),
        }
    }

    /// A failure of a port in a call that reads, or writes what can be written again.
    pub(crate) fn from_port(error: &Error, doing: &str) -> Self {
        let problem = match error.kind {
            ErrorKind::Rejected => {
                let detail = format!("{doing}: the store does not take it as it is");
                return Self::bad("rejected", "The store refuses it", detail).caused_by(error);
            }
            ErrorKind::Conflict => {
                let detail = format!("{doing}: it stands in the way of what is there already");
                return Self::new(
                    StatusCode::CONFLICT,
                    "conflict",
                    "It conflicts with what is there",
                    detail,
                )
                .caused_by(error);
            }
            ErrorKind::Unknown => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "outcome-unknown",
                "Whether it was done is not known",
                format!("{doing}: no answer came in time, so it may have been done or not"),
            )
            .mend("ask for the state, or send the same request again: doing it twice does no harm"),
            _ => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "Something that this needs is away",
                format!("{doing}: what this needs is not answering now"),
            )
            .mend("try again after a moment; GET /readyz says what is waited for"),
        };
        problem.retry_after(error.retry_after).caused_by(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let inner = *self.0;
        let json = serde_json::to_vec(&inner.body).expect("a problem is texts, numbers and JSON values");
        let mut response = Response::new(Body::from(json));
        *response.status_mut() = inner.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(after) = inner.retry_after {
            // Whole seconds (RFC 9110, 10.2.3), never fewer than what is meant.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        for (name, value) in inner.headers {
            headers.insert(name, value);
        }
        let cause = inner.cause.or_else(|| inner.status.is_server_error().then_some(inner.body.detail));
        if let Some(cause) = cause {
            response.extensions_mut().insert(Cause(cause));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_as_rfc_9457_and_hides_its_cause() {
        let error = Error::unavailable("read topics").with_source(std::io::Error::other("10.0.0.3 refused"));
        let problem =
            Problem::from_port(&error.with_retry_after(Duration::from_millis(1200)), "read the topic");
        assert_eq!(
            problem.to_json(),
            serde_json::json!({
                "type": "urn:tidings:problem:unavailable",
                "title": "Something that this needs is away",
                "status": 503,
                "detail": "read the topic: what this needs is not answering now",
                "mend": "try again after a moment; GET /readyz says what is waited for",
            })
        );
        let response = problem.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        assert!(response.extensions().get::<Cause>().unwrap().0.contains("10.0.0.3"));
        // Where there is no error behind it, the log has what the client reads.
        let busy = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Busy", "many are").into_response();
        assert_eq!(busy.extensions().get::<Cause>().unwrap().0, "many are");
    }
}
