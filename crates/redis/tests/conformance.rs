//! Redis passes the suite of the port that it implements.

#![expect(clippy::disallowed_methods, reason = "the tests' own chance")]

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use tidings_conformance::{Adapter, Disturbance, Fixture, Need, OpenInsert, Ports, SentMail, Suite};
use tidings_domain::{
    Result,
    id::MessageId,
    ports::{Admission, Entropy, Limits, NewItem, Request},
    time::Timestamp,
};
use tidings_redis::{Options, RedisLimits};
use tidings_servers::redis::Redis;

struct RedisAdapter;

#[async_trait]
impl Adapter for RedisAdapter {
    fn suites(&self) -> Vec<Suite> {
        vec![Suite::Limits]
    }

    fn cannot(&self, _need: Need) -> Option<&'static str> {
        None
    }

    async fn install(&self) -> Box<dyn Fixture> {
        Box::new(RedisFixture { url: Redis::shared().await.database() })
    }
}

struct RedisFixture {
    url: String,
}

#[async_trait]
impl Fixture for RedisFixture {
    async fn open(&self) -> Ports {
        let options = Options {
            url: self.url.clone(),
            ca_file: None,
            namespace: "tidings".to_owned(),
            timeout: Duration::from_secs(60),
            fallback: Arc::new(Nobody),
            entropy: Arc::new(SystemEntropy),
            meter: NoopMeterProvider::new().meter("test"),
        };
        let redis = RedisLimits::new(options).expect("the URL is right");
        Ports { limits: Some(redis.limits()), ..Ports::default() }
    }

    async fn elapse(&self, _duration: Duration) {
        unreachable!("limits have no leases")
    }

    async fn disturb(&self, what: Disturbance) {
        unreachable!("no behaviour of limits disturbs: {what:?}")
    }

    async fn mend(&self) {}

    async fn open_insert(&self, _item: NewItem) -> Box<dyn OpenInsert> {
        unreachable!("limits have no items")
    }

    async fn mails(&self) -> Vec<SentMail> {
        Vec::new()
    }
}

/// A fallback that has nothing to say: only Redis passes.
struct Nobody;

#[async_trait]
impl Limits for Nobody {
    async fn admit(&self, _request: &Request, _at: Timestamp) -> Result<Admission> {
        panic!("the fallback was asked")
    }

    async fn forget(&self, _ids: &[MessageId]) -> Result<()> {
        Ok(())
    }

    async fn accepted(&self, _ids: &[MessageId], _at: Timestamp) -> Result<()> {
        panic!("the fallback was told")
    }

    async fn is_accepted(&self, ids: &[MessageId]) -> Result<Vec<Option<Timestamp>>> {
        Ok(vec![None; ids.len()])
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system gives randomness");
    }
}

fn main() -> ExitCode {
    let adapter: Arc<dyn Adapter> = Arc::new(RedisAdapter);
    tidings_conformance::main_of(vec![("with_redis", adapter)]).exit_code()
}
