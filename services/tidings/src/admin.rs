//! The admin address: health details and metrics of any process, for operators and their tools only.

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Encoder as _, TextEncoder};
use tidings_runtime::health::Health;

#[derive(Clone)]
struct Admin {
    health: Health,
    registry: prometheus::Registry,
}

/// `/healthz` (live), `/readyz` (200 or 503 with every part and dependency) and `/metrics`. No probe does any I/O.
pub(crate) fn router(health: Health, registry: prometheus::Registry) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "live\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(|| async { (StatusCode::NOT_FOUND, "here are /healthz, /readyz and /metrics\n") })
        .with_state(Admin { health, registry })
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let report = admin.health.report();
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&admin.registry.gather(), &mut text) {
        Ok(()) => ([(header::CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => {
            tracing::error!(error = %error, "metrics cannot be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be written\n").into_response()
        }
    }
}
