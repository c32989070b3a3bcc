//! Probes, the way in, and what is answered where nothing else is.

use std::future::{Ready, ready};

use axum::{
    extract::State,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use serde::Serialize;
use tidings_runtime::health::{PartState, Report};
use utoipa::ToSchema;

use crate::{
    api::Shared,
    extract::{Json, json_bytes},
    html,
    problem::{Problem, ProblemBody, Result},
};

/// Whether it is alive or ready.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Probe)]
pub(crate) struct ProbeView {
    /// `ok`, or `degraded`: it serves, and something works worse than it should.
    status: &'static str,
}

/// Whether the process is alive.
#[utoipa::path(
    get, path = "/healthz", tag = "probes", security(()),
    responses((status = 200, description = "It is", body = ProbeView))
)]
pub(crate) fn healthz() -> Ready<Json<ProbeView>> {
    ready(Json(ProbeView { status: "ok" }))
}

/// Whether it can serve.
#[utoipa::path(
    get, path = "/readyz", tag = "probes", security(()),
    responses(
        (status = 200, description = "It can; details are on the admin address", body = ProbeView),
        (status = 503, description = "Not now", body = ProblemBody, content_type = "application/problem+json"),
    )
)]
pub(crate) fn readyz(State(api): State<Shared>) -> Ready<Result<Json<ProbeView>>> {
    ready(readiness(&api))
}

fn readiness(api: &Shared) -> Result<Json<ProbeView>> {
    let report = api.context.health.report();
    if report.ready {
        let status = if report.degraded { "degraded" } else { "ok" };
        return Ok(Json(ProbeView { status }));
    }
    Err(not_ready(report))
}

/// The problem that names what is waited for; why is told on the admin address only.
pub(crate) fn not_ready(report: Report) -> Problem {
    let waits = |state: &PartState| matches!(state, PartState::Waiting(_) | PartState::Stopped(_));
    let all = report.dependencies.into_iter().chain(report.parts);
    let parts: Vec<_> = all.filter(|(_, state)| waits(state)).map(|(name, _)| name).collect();
    let detail = format!("not ready yet, or not now: {}", parts.join(", "));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", "Not ready", detail)
        .mend("the admin address says what each part waits for (TIDINGS_ADMIN_ADDR)")
        .retry_after(None)
}

/// What this is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Welcome {
    name: &'static str,
    version: &'static str,
    publish: &'static str,
    mailbox: Option<&'static str>,
    openapi: &'static str,
}

/// What this is and where to go.
#[utoipa::path(
    get, path = "/", tag = "probes", security(()),
    responses((status = 200, description = "Where to go; JSON unless text/html is accepted",
        content((Welcome = "application/json"), (String = "text/html"))))
)]
pub(crate) fn welcome(State(api): State<Shared>, headers: HeaderMap) -> Ready<Response> {
    let mailbox = api.context.mailbox.as_ref().map(|_| "/mailbox");
    let version = env!("CARGO_PKG_VERSION");
    let answer = if html::is_wanted(&headers) {
        let to_mailbox =
            mailbox.map(|_| "<li><a href=\"/mailbox\">The mailbox</a>: mails that were caught</li>\n");
        let body = format!(
            "<p>Accept now, notify later: version {version}.</p>\n<ul>\n{}\
             <li><a href=\"/openapi.json\">/openapi.json</a>: all calls</li>\n\
             <li><a href=\"/readyz\">/readyz</a>: whether it can serve</li>\n</ul>",
            to_mailbox.unwrap_or_default()
        );
        html::page(StatusCode::OK, "Tidings", &body)
    } else {
        let publish = "POST /v1/topics/{topic}/messages";
        Json(Welcome { name: "tidings", version, publish, mailbox, openapi: "/openapi.json" }).into_response()
    };
    ready(answer)
}

/// This description.
#[utoipa::path(
    get, path = "/openapi.json", tag = "probes", security(()),
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json", body = Object))
)]
pub(crate) fn openapi() -> Ready<Response> {
    ready(json_bytes(crate::openapi::openapi_json().into()))
}

/// No such path.
pub(crate) fn no_such_path(uri: Uri) -> Ready<Problem> {
    let detail = format!("there is nothing at {}", uri.path());
    let problem = Problem::not_found("no-such-path", "No such path", detail);
    ready(problem.mend("GET /openapi.json lists all paths"))
}

/// No such method on this path; the router adds `Allow`.
pub(crate) fn no_such_method(method: Method, uri: Uri) -> Ready<Problem> {
    let path = uri.path();
    let (status, title) = (StatusCode::METHOD_NOT_ALLOWED, "The method is not allowed");
    let problem = if path == "/publishtopic" {
        let detail = format!("{method} publishes nothing: this path takes POST with the text as its body");
        Problem::new(status, "method-not-allowed", title, detail)
            .mend(format!("curl -X POST -H 'Content-Type: text/plain' --data 'Hello' <this server>{path}"))
    } else {
        let detail = format!("{method} is not allowed on {path}");
        Problem::new(status, "method-not-allowed", title, detail).mend("the Allow header names what is")
    };
    ready(problem)
}
