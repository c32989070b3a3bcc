//! One process's limits, with a fallback that counts who asks it, and commands of another party's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use redis::FromRedisValue;
use tidings_domain::{
    Result,
    id::MessageId,
    idempotency::Fingerprint,
    ports::{Admission, Bucket, Dependency, DependencyState, Limits, Request},
    time::Timestamp,
};
use tidings_memory::{SeededEntropy, limits::InProcessLimits};
use tidings_redis::{Options, RedisLimits};
use uuid::Uuid;

/// Longer than any answer takes on a busy machine.
pub(crate) const PATIENT: Duration = Duration::from_secs(30);

pub(crate) struct Process {
    pub(crate) limits: Arc<dyn Limits>,
    pub(crate) dependency: Arc<dyn Dependency>,
    fallback: Arc<Fallback>,
}

impl Process {
    /// One whose calls wait as long as it takes.
    pub(crate) fn patient(url: &str) -> Self {
        Self::new(options(url, PATIENT))
    }

    pub(crate) fn new(options: Options) -> Self {
        let fallback = Arc::new(Fallback::default());
        let options = Options { fallback: Arc::<Fallback>::clone(&fallback), ..options };
        let redis = RedisLimits::new(options).unwrap();
        Self { limits: redis.limits(), dependency: redis.dependency(), fallback }
    }

    pub(crate) async fn admit(&self, request: &Request, at: Timestamp) -> Admission {
        self.limits.admit(request, at).await.unwrap()
    }

    /// Whether the request goes.
    pub(crate) async fn goes(&self, request: &Request, at: Timestamp) -> bool {
        matches!(self.admit(request, at).await, Admission::Go { .. })
    }

    /// Whether something else is remembered under the id.
    pub(crate) async fn differs(&self, number: u128, what: u8) -> bool {
        match self.admit(&keyed(&[(number, what)]), start()).await {
            Admission::Go { different } => different[0],
            Admission::Wait { .. } => panic!("there are no buckets"),
        }
    }

    /// How often the fallback was asked to admit.
    pub(crate) fn fallbacks(&self) -> usize {
        self.fallback.admits.load(Ordering::Relaxed)
    }

    /// What the dependency says while it is degraded.
    pub(crate) fn trouble(&self) -> Option<String> {
        match self.dependency.state() {
            DependencyState::Up => None,
            DependencyState::Degraded(reason) => Some(reason),
            other => panic!("limits are never {other:?}"),
        }
    }

    pub(crate) async fn until_up(&self) {
        self.until("it is up", |trouble| trouble.is_none()).await;
    }

    pub(crate) async fn until_trouble(&self, part: &str) {
        self.until(part, |trouble| trouble.is_some_and(|reason| reason.contains(part))).await;
    }

    async fn until(&self, what: &str, condition: impl Fn(Option<String>) -> bool) {
        let looking = async {
            while !condition(self.trouble()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let found = tokio::time::timeout(PATIENT, looking).await;
        assert!(found.is_ok(), "never: {what}; but {:?}", self.trouble());
    }
}

pub(crate) fn options(url: &str, timeout: Duration) -> Options {
    Options {
        url: url.to_owned(),
        ca_file: None,
        namespace: "tidings".to_owned(),
        timeout,
        fallback: Arc::new(InProcessLimits::new()),
        entropy: Arc::new(SeededEntropy::new(1)),
        meter: NoopMeterProvider::new().meter("test"),
    }
}

/// The limits of the process, which count who asks them.
#[derive(Default)]
struct Fallback {
    limits: InProcessLimits,
    admits: AtomicUsize,
}

#[async_trait]
impl Limits for Fallback {
    async fn admit(&self, request: &Request, at: Timestamp) -> Result<Admission> {
        self.admits.fetch_add(1, Ordering::Relaxed);
        self.limits.admit(request, at).await
    }

    async fn forget(&self, ids: &[MessageId]) -> Result<()> {
        self.limits.forget(ids).await
    }

    async fn accepted(&self, ids: &[MessageId], at: Timestamp) -> Result<()> {
        self.limits.accepted(ids, at).await
    }

    async fn is_accepted(&self, ids: &[MessageId]) -> Result<Vec<Option<Timestamp>>> {
        self.limits.is_accepted(ids).await
    }
}

/// What another party asks of the server.
pub(crate) async fn ask<T: FromRedisValue>(url: &str, command: &[&str]) -> T {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await.unwrap()
}

pub(crate) fn start() -> Timestamp {
    Timestamp::from_millis(1_893_456_000_000)
}

pub(crate) fn after_ms(millis: u64) -> Timestamp {
    start().plus(Duration::from_millis(millis))
}

pub(crate) fn id(number: u128) -> MessageId {
    MessageId(Uuid::from_u128(number))
}

pub(crate) fn bucket(name: &str, per_second: u32, burst: u32) -> Bucket {
    Bucket { name: name.to_owned(), per_second, burst }
}

pub(crate) fn draw(buckets: Vec<Bucket>, cost: u32) -> Request {
    Request { buckets, cost, fingerprints: Vec::new() }
}

pub(crate) fn keyed(says: &[(u128, u8)]) -> Request {
    let fingerprints = says.iter().map(|(number, what)| (id(*number), Fingerprint([*what; 32]))).collect();
    Request { buckets: Vec::new(), cost: 1, fingerprints }
}
