//! What answers before the api can: everything but `/healthz` is 503 and says what is waited for.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Request, State},
    http::header,
    response::{IntoResponse as _, Response},
    routing::get,
};
use tidings_domain::ports::{Clock, Entropy};
use tidings_runtime::health::Health;

use crate::{
    front_door::{REQUEST_ID, request_id},
    probes,
};

#[derive(Clone)]
struct Before {
    health: Health,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
}

/// The router for the time in which a process has bound its address and waits for what it needs. Nothing hangs there:
/// `/healthz` is 200, anything else a problem with `Retry-After`.
pub fn waiting_router(health: Health, clock: Arc<dyn Clock>, entropy: Arc<dyn Entropy>) -> Router {
    Router::new().route("/healthz", get(probes::healthz)).fallback(not_ready).with_state(Before {
        health,
        clock,
        entropy,
    })
}

async fn not_ready(State(before): State<Before>, request: Request) -> Response {
    let id = request_id(&*before.clock, &*before.entropy, request.headers());
    let problem = probes::not_ready(before.health.report()).closing();
    let mut response = problem.into_response();
    response.headers_mut().insert(REQUEST_ID, id);
    response.headers_mut().insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
