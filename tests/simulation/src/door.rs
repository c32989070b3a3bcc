//! The way into the api: requests to its router as a service, without a socket. A request is part of the api's process,
//! so that a crash ends it wherever it stands, and a client that goes away ends it as well.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use tokio::{sync::oneshot, task::JoinSet};
use tower::ServiceExt as _;

/// What a request was answered.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as JSON; null where it is none.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Nobody listens.
    Refused,
    /// The connection ended.
    Reset,
    /// The client went away.
    GaveUp,
}

/// The way in. Clones are the same.
#[derive(Clone, Default)]
pub(crate) struct Door {
    open: Arc<Mutex<Option<Open>>>,
}

struct Open {
    router: Router,
    requests: JoinSet<()>,
}

impl Door {
    /// The api answers from now on.
    pub(crate) fn open(&self, router: Router) {
        *self.lock() = Some(Open { router, requests: JoinSet::new() });
    }

    /// Nobody listens any more. Dropping what is answered ends the requests that are under way.
    pub(crate) fn close(&self) -> JoinSet<()> {
        self.lock().take().map(|open| open.requests).unwrap_or_default()
    }

    /// Sends a request and waits for its answer, at most `patience`.
    pub(crate) async fn call(&self, request: Request<Body>, patience: Duration) -> Result<Reply, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let task = {
            let mut open = self.lock();
            let Some(open) = &mut *open else { return Err(NoAnswer::Refused) };
            while open.requests.try_join_next().is_some() {}
            let router = open.router.clone();
            open.requests.spawn(async move {
                let Ok(response) = router.oneshot(request).await;
                let (parts, body) = response.into_parts();
                if let Ok(body) = body.collect().await {
                    let reply =
                        Reply { status: parts.status.as_u16(), headers: parts.headers, body: body.to_bytes() };
                    let _client_gone = sender.send(reply);
                }
            })
        };
        match tokio::time::timeout(patience, receiver).await {
            Ok(answer) => answer.map_err(|_| NoAnswer::Reset),
            Err(_) => {
                task.abort();
                Err(NoAnswer::GaveUp)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
