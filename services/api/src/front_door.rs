//! What every request passes first and every response last: a request id, the server span, the names that are ours, a
//! place among those handled at once, a time limit, and a net for panics.

use std::panic::AssertUnwindSafe;

use axum::{
    body::{Body, HttpBody as _},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures::FutureExt as _;
use opentelemetry::{KeyValue, trace::SpanKind};
use tidings_domain::{
    id::new_v7,
    ports::{Clock, Entropy},
    trace_context::TraceContext,
};
use tidings_runtime::{
    conventions,
    telemetry::{Span, enter, within},
};
use tokio::time::Instant;

use crate::{
    api::Shared,
    limits::HeldBody,
    problem::{Cause, Problem, Result},
    settings::Auth,
};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id of a client's that is taken over.
const MAX_REQUEST_ID_BYTES: usize = 64;

/// The context of the request's server span.
#[derive(Clone, Debug)]
pub(crate) struct RequestTrace(pub(crate) TraceContext);

/// Handles one request.
pub(crate) async fn front_door(State(api): State<Shared>, mut request: Request, next: Next) -> Response {
    let request_id = request_id(&*api.context.clock, &*api.context.entropy, request.headers());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let route = route.as_ref().map_or("(none)", MatchedPath::as_str);
    let method = request.method().clone();
    let came = trace_of(request.headers());
    let began = Instant::now();
    let mut span = server_span(&api, method_word(&method), route, came);
    request.extensions_mut().insert(RequestTrace(span.trace().clone()));

    let trace = span.trace().clone();
    let handled = within(&trace, handle(&api, route, request, next));
    let handled = AssertUnwindSafe(handled).catch_unwind().await;
    let mut response = match handled {
        Ok(Ok(response)) => response,
        Ok(Err(problem)) => problem.into_response(),
        Err(_) => panicked().into_response(),
    };

    let status = response.status();
    let error = if status.is_server_error() { status.as_str().to_owned() } else { String::new() };
    let labels = [
        KeyValue::new("http.request.method", method_word(&method)),
        KeyValue::new("url.scheme", "http"),
        route_label(route),
        KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
        KeyValue::new(conventions::ERROR_TYPE, error),
    ];
    // The last is an error's only.
    let labels = if status.is_server_error() { &labels[..] } else { &labels[..4] };
    api.request_duration.record(began.elapsed().as_secs_f64(), labels);
    span.set(KeyValue::new("http.response.status_code", i64::from(status.as_u16())));
    // "Not ready" is a probe's answer and no fault.
    if status.is_server_error() && !is_probe(route) {
        span.fail(status.as_str().to_owned(), "the request was not served");
        let error =
            response.extensions_mut().remove::<Cause>().map_or_else(String::new, |Cause(chain)| chain);
        let (method, status, request_id) =
            (method_word(&method), status.as_u16(), request_id.to_str().unwrap_or("?"));
        let _line = enter(&trace);
        tracing::warn!(method, route, status, request_id, error, "a request was not served");
    }
    tracing::debug!(method = method_word(&method), route, status = status.as_u16(), "answered");
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, request_id);
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn server_span(api: &Shared, method: &str, route: &str, came: TraceContext) -> Span {
    let telemetry = &api.context.telemetry;
    if !telemetry.is_recording() {
        return Span::none(came);
    }
    let attributes = vec![
        KeyValue::new("http.request.method", method.to_owned()),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("url.scheme", "http"),
    ];
    telemetry.span(format!("{method} {route}"), SpanKind::Server, &came, &[], attributes)
}

/// A route as a label; that of the busiest ones costs no memory.
fn route_label(route: &str) -> KeyValue {
    const BUSY: [&str; 2] = ["/v1/topics/{topic}/messages", "/publishtopic"];
    match BUSY.into_iter().find(|busy| *busy == route) {
        Some(busy) => KeyValue::new("http.route", busy),
        None => KeyValue::new("http.route", route.to_owned()),
    }
}

/// A method as a label: what clients make up is one value (a label must not grow with its guesses).
fn method_word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "_OTHER",
    }
}

fn is_probe(route: &str) -> bool {
    matches!(route, "/healthz" | "/readyz")
}

async fn handle(api: &Shared, route: &str, request: Request, next: Next) -> Result<Response> {
    if is_probe(route) {
        return Ok(next.run(request).await);
    }
    if api.gate.auth == Auth::Off {
        api.hosts.check_host(request.headers(), request.uri())?;
        // A link's token is its own right to act, and mail providers post to it for the reader.
        if !matches!(route, "/confirm/{token}" | "/unsubscribe/{token}") {
            api.hosts.check_origin(request.headers(), request.uri())?;
        }
    }
    let waits =
        request.uri().query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("wait=")));
    let _place = api.permits.request(waits)?;
    let settings = &api.context.settings;
    let limit = settings.request_timeout() + if waits { settings.max_wait() } else { Default::default() };
    tokio::time::timeout(limit, serve(api, request, next)).await.map_err(|_| too_long())
}

/// Lets the request's handler answer. Where it answers without having read the body, the rest is read and thrown away, so
/// that the client gets the answer (closing on unread bytes would reset the connection under it) and can go on. A client
/// that waits for `100 Continue` has sent nothing yet: its connection ends.
async fn serve(api: &Shared, request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let waits_for_us = request.headers().contains_key(header::EXPECT);
    let (parts, body) = request.into_parts();
    let held = HeldBody::new(body);
    let mut response = next.run(Request::from_parts(parts, Body::new(held.clone()))).await;
    if held.is_read() || response.headers().contains_key(header::CONNECTION) {
        return response;
    }
    let is_drained = !waits_for_us && held.drain(api.context.settings.body_timeout()).await;
    if !is_drained {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The client's own where it is sane, else a new one.
pub(crate) fn request_id(clock: &dyn Clock, entropy: &dyn Entropy, headers: &HeaderMap) -> HeaderValue {
    let sane = |id: &&HeaderValue| {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._-".contains(byte);
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.as_bytes().iter().all(allowed)
    };
    headers.get(REQUEST_ID).filter(sane).cloned().unwrap_or_else(|| {
        let id = new_v7(clock, entropy);
        HeaderValue::try_from(id.to_string()).expect("a UUID's text is visible ASCII")
    })
}

/// The client's trace; garbage is no trace.
fn trace_of(headers: &HeaderMap) -> TraceContext {
    let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    TraceContext::parse(get("traceparent"), get("tracestate"))
}

fn panicked() -> Problem {
    let detail = "something is wrong with this program: the request may have been done or not";
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "fault", "A fault of ours", detail)
        .mend("report it with the x-request-id of this response and what the log says beside it")
}

fn too_long() -> Problem {
    let detail = "the request was not done in the time that a request may take: it may have been done or not";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "out-of-time", "It took too long", detail)
        .mend("ask for the state, or send the same request again")
        .retry_after(None)
}
