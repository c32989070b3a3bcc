//! Limits of a request: how many at once, how large a body, how long it may take to arrive.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tidings_domain::text::MAX_MESSAGE_BYTES;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout, timeout_at},
};

use crate::{
    api::Shared,
    problem::{Problem, Result},
    settings::Settings,
};

/// The largest JSON message: room for a text in which every character is escaped as `\uXXXX` by a cautious encoder.
pub(crate) const MAX_JSON_BYTES: usize = 4 * MAX_MESSAGE_BYTES;

/// The largest NDJSON batch.
pub(crate) const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// The largest body of every other call.
pub(crate) const MAX_FORM_BYTES: usize = 64 * 1024;

/// How much of a body that nobody wants is read and thrown away, so that the connection stays usable after its answer.
const MAX_DRAINED_BYTES: u64 = 16 * 1024 * 1024;

/// How long a batch may wait for a place.
const BATCH_PLACE_WAIT: Duration = Duration::from_secs(1);

/// How many requests are handled at once.
pub(crate) struct Permits {
    requests: Semaphore,
    waits: Semaphore,
    batches: Semaphore,
}

impl Permits {
    pub(crate) fn new(settings: &Settings) -> Self {
        let of = |permits: usize| Semaphore::new(permits.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            requests: of(settings.max_concurrent_requests),
            waits: of(settings.max_concurrent_waits),
            batches: of(settings.max_concurrent_batches),
        }
    }

    /// A place for one request; those that wait have places of their own.
    pub(crate) fn request(&self, waits: bool) -> Result<SemaphorePermit<'_>> {
        take(if waits { &self.waits } else { &self.requests }, "requests")
    }

    /// A place for one batch, waited for a little: batches are few and large.
    pub(crate) async fn batch(&self) -> Result<SemaphorePermit<'_>> {
        match timeout(BATCH_PLACE_WAIT, self.batches.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(busy("batches")),
        }
    }
}

fn take<'a>(places: &'a Semaphore, what: &str) -> Result<SemaphorePermit<'a>> {
    places.try_acquire().map_err(|_| busy(what))
}

fn busy(what: &str) -> Problem {
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "busy",
        "Too many requests at once",
        format!("as many {what} as may be handled at once are being handled: nothing was done"),
    )
    .mend("try again after a moment")
    .retry_after(None)
}

/// A request's body, of which the front door keeps hold while a handler reads it.
#[derive(Clone)]
pub(crate) struct HeldBody(Arc<Mutex<Body>>);

impl HeldBody {
    pub(crate) fn new(body: Body) -> Self {
        Self(Arc::new(Mutex::new(body)))
    }

    fn lock(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether all of it was read.
    pub(crate) fn is_read(&self) -> bool {
        self.lock().is_end_stream()
    }

    /// Reads what a handler left and throws it away; false where that is too much or takes too long, and the connection
    /// has to end.
    pub(crate) async fn drain(mut self, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        if self.lock().size_hint().lower() > MAX_DRAINED_BYTES {
            return false;
        }
        let mut drained = 0;
        loop {
            match timeout_at(deadline, self.frame()).await {
                Ok(None) => return true,
                Ok(Some(Ok(frame))) => {
                    drained += frame.into_data().map_or(0, |data| data.len() as u64);
                    if drained > MAX_DRAINED_BYTES {
                        return false;
                    }
                }
                Ok(Some(Err(_))) | Err(_) => return false,
            }
        }
    }
}

impl HttpBody for HeldBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.lock().size_hint()
    }
}

/// Reads a body of at most `limit` bytes within the time that a body may take.
pub(crate) async fn read_body(
    api: &Shared,
    headers: &HeaderMap,
    mut body: Body,
    limit: usize,
) -> Result<Bytes> {
    refuse_encodings(headers)?;
    let deadline = Instant::now() + api.context.settings.body_timeout();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > limit as u64) {
        return Err(too_large(announced, limit));
    }
    let mut read = Bytes::new();
    let mut joined: Option<BytesMut> = None;
    loop {
        let frame = match timeout_at(deadline, body.frame()).await {
            Err(_) => return Err(too_slow()),
            Ok(None) => return Ok(joined.map_or(read, BytesMut::freeze)),
            Ok(Some(Err(_))) => return Err(cut_off()),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        let so_far = joined.as_ref().map_or(read.len(), BytesMut::len);
        if so_far + data.len() > limit {
            return Err(too_large(None, limit));
        }
        // A body that comes in one piece is never copied.
        match &mut joined {
            Some(joined) => joined.extend_from_slice(&data),
            None if read.is_empty() => read = data,
            None => {
                let mut both = BytesMut::with_capacity(limit.min(so_far + 2 * data.len()));
                both.extend_from_slice(&read);
                both.extend_from_slice(&data);
                joined = Some(both);
            }
        }
    }
}

fn refuse_encodings(headers: &HeaderMap) -> Result<()> {
    match headers.get(header::CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-encoding",
            "Encoded bodies are not taken",
            format!("the body has Content-Encoding {encoding:?}"),
        )
        .mend("send it as it is, without Content-Encoding")
        .header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))),
        _ => Ok(()),
    }
}

fn too_large(announced: Option<u64>, limit: usize) -> Problem {
    let detail = match announced {
        Some(bytes) => format!("the body has {bytes} bytes, and at most {limit} are taken here"),
        None => format!("the body has more than the {limit} bytes that are taken here"),
    };
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail).with("limit_bytes", limit).mend(
        format!(
            "a message, its subject and its attributes take at most {MAX_MESSAGE_BYTES} bytes (255 KiB) together; \
             put more somewhere else and post where it is"
        ),
    )
}

fn too_slow() -> Problem {
    let detail = "the body did not arrive in the time that a body may take: nothing was done";
    Problem::new(StatusCode::REQUEST_TIMEOUT, "too-slow", "The body came too slowly", detail)
        .mend("send it again in one go")
        .closing()
}

fn cut_off() -> Problem {
    Problem::bad("cut-off", "The body ended early", "the connection ended before the body was complete")
        .closing()
}
