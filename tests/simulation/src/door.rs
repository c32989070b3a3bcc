//! The way into the api: requests to its router as a service, without a socket. A request is part of the api's process,
//! so that a crash ends it wherever it stands, and a client that goes away ends it as well.

use std::{
    collections::BTreeMap,
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
    open: Arc<Mutex<BTreeMap<u64, Open>>>,
}

struct Open {
    router: Router,
    requests: JoinSet<()>,
}

impl Door {
    /// An api answers from now on, in the life that it has.
    pub(crate) fn open(&self, life: u64, router: Router) {
        self.lock().insert(life, Open { router, requests: JoinSet::new() });
    }

    /// That api does not listen any more. Dropping what is answered ends the requests that are under way.
    pub(crate) fn close(&self, life: u64) -> JoinSet<()> {
        self.lock().remove(&life).map(|open| open.requests).unwrap_or_default()
    }

    /// Sends a request to one of the apis that listen, which `pick` decides, and waits for its answer, at most
    /// `patience`.
    pub(crate) async fn call(
        &self,
        request: Request<Body>,
        pick: usize,
        patience: Duration,
    ) -> Result<Reply, NoAnswer> {
        let (sender, receiver) = oneshot::channel();
        let task = {
            let mut open = self.lock();
            let count = open.len().max(1);
            let Some(open) = open.values_mut().nth(pick % count) else { return Err(NoAnswer::Refused) };
            while open.requests.try_join_next().is_some() {}
            let router = open.router.clone();
            open.requests.spawn(async move {
                let Ok(response) = router.oneshot(request).await;
                let (parts, body) = response.into_parts();
                if let Ok(body) = body.collect().await {
                    let reply = Reply {
                        status: parts.status.as_u16(),
                        headers: parts.headers,
                        body: body.to_bytes(),
                    };
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
