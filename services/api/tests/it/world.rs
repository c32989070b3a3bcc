//! An api over a memory, its background work running, and requests to it.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode},
};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tidings_api::{Api, Auth, Context, Settings, run};
use tidings_domain::{
    id::MessageId,
    ports::{Bus, Clock as _, NewItem, Queue, Received},
    time::Timestamp,
    token::Secret,
    topic::TopicName,
};
use tidings_memory::{Memory, Options, PausedClock, SeededEntropy, limits::InProcessLimits};
use tidings_runtime::{health::Health, shutdown::Shutdown, telemetry::Telemetry};
use tokio::task::JoinSet;
use tower::ServiceExt as _;

/// What a client reads.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The end of the problem's `type`; it must be a whole problem.
    #[track_caller]
    pub(crate) fn problem(&self) -> String {
        assert_eq!(self.header("content-type"), "application/problem+json", "{}", self.text());
        let json = self.json();
        assert_eq!(json["status"], self.status.as_u16());
        assert!(!json["title"].as_str().unwrap().is_empty() && !json["detail"].as_str().unwrap().is_empty());
        json["type"].as_str().unwrap().strip_prefix("urn:tidings:problem:").unwrap().to_owned()
    }
}

/// What a world is made with.
pub(crate) struct Setup {
    pub(crate) settings: Settings,
    pub(crate) bus: Option<Arc<dyn Bus>>,
    pub(crate) telemetry: Telemetry,
    pub(crate) mailbox: bool,
    pub(crate) runs: bool,
}

impl Default for Setup {
    fn default() -> Self {
        let settings = Settings { auth: Auth::Off, ..Settings::default() };
        Self { settings, bus: None, telemetry: Telemetry::none(), mailbox: true, runs: true }
    }
}

pub(crate) struct World {
    pub(crate) memory: Memory,
    pub(crate) router: Router,
    pub(crate) clock: PausedClock,
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
    pub(crate) tasks: JoinSet<tidings_domain::Result<()>>,
}

pub(crate) const SECRET: [u8; 32] = [7; 32];

impl World {
    pub(crate) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(crate) fn settings(change: impl FnOnce(&mut Settings)) -> Self {
        let mut setup = Setup::default();
        change(&mut setup.settings);
        Self::with(setup)
    }

    pub(crate) fn with(setup: Setup) -> Self {
        let memory = Memory::new(Options { delay_ms: 0, ..Options::new(1) });
        Self::over(memory, setup)
    }

    pub(crate) fn over(memory: Memory, setup: Setup) -> Self {
        let (clock, health, shutdown) = (memory.clock(), Health::new(), Shutdown::default());
        let api = Api::new(Context {
            bus: setup.bus.unwrap_or_else(|| memory.bus()),
            topology: memory.topology(),
            items: memory.items(),
            catalog: memory.catalog(),
            subscriptions: memory.subscriptions(),
            deliveries: memory.deliveries(),
            dead_letters: memory.dead_letters(),
            limits: Arc::new(InProcessLimits::new()),
            mailbox: setup.mailbox.then(|| memory.mailbox()),
            clock: Arc::new(clock),
            entropy: Arc::new(SeededEntropy::new(2)),
            health: health.clone(),
            telemetry: setup.telemetry,
            secret: Secret::new(SECRET),
            settings: setup.settings,
        });
        let (router, mut tasks) = (api.router(), JoinSet::new());
        if setup.runs {
            tasks.spawn(run(api, shutdown.clone()));
        }
        Self { memory, router, clock, health, shutdown, tasks }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Reply { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Body>,
    ) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.send(request.body(body.into()).unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.call(Method::GET, path, &[], Body::empty()).await
    }

    pub(crate) async fn post(&self, path: &str, content_type: &str, body: impl Into<Body>) -> Reply {
        self.call(Method::POST, path, &[("content-type", content_type)], body).await
    }

    /// Posts a text to the topic `messages` and answers its id.
    pub(crate) async fn publish(&self, text: &'static str) -> MessageId {
        let reply = self.post("/v1/topics/messages/messages", "text/plain", text).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{}", reply.text());
        MessageId::parse(reply.json()["id"].as_str().unwrap()).unwrap()
    }

    /// All that lies in the queue `items`, left there for nobody.
    pub(crate) async fn queued(&self) -> Vec<Received> {
        let consumer = self.memory.bus().consume(Queue::Items, 10_000).await.unwrap();
        let mut all = Vec::new();
        while self.memory.depth(Queue::Items) > all.len() {
            all.extend(consumer.receive(10_000, Duration::from_secs(1)).await.unwrap());
        }
        all
    }

    /// Stores everything that lies in the queue `items`, as the subscriber would.
    pub(crate) async fn store(&self) {
        let now = self.clock.now();
        let decode =
            |received: &Received| tidings_domain::wire::message::decode(&received.envelope, now).unwrap();
        let rows: Vec<NewItem> = self
            .queued()
            .await
            .iter()
            .map(|received| NewItem { message: decode(received), stored_at: now })
            .collect();
        self.memory.items().insert(&rows).await.unwrap();
    }
}

/// The topic `messages`.
pub(crate) fn messages() -> TopicName {
    TopicName::messages()
}

/// When the worlds begin, as HTTP writes it.
pub(crate) fn epoch() -> Timestamp {
    tidings_memory::epoch()
}

/// Replaces the values of `names`, which change from run to run, by their names.
pub(crate) fn masked(mut json: Value, names: &[&str]) -> Value {
    match &mut json {
        Value::Object(object) => {
            for (name, value) in object.iter_mut() {
                let is_masked = names.contains(&name.as_str()) && !value.is_null();
                *value = if is_masked { format!("<{name}>").into() } else { masked(value.take(), names) };
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|value| *value = masked(value.take(), names)),
        _ => {}
    }
    json
}
