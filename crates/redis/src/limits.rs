//! `Limits`.
//!
//! The time of a bucket is that of the calls, as the port has it, and not Redis's own. Clocks of apis differ by a little: a
//! bucket is refilled as far as the foremost of them has come, once. One that is ahead by more than [`CLOCK_SKEW`] is wrong, and
//! what it wrote begins anew: too much is given then, rather than nothing until the right time has caught up.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use redis::{Cmd, Script, cmd};
use tidings_domain::{
    Error, Result,
    id::MessageId,
    idempotency::REMEMBERED,
    ports::{Admission, Dependency, Limits, Request},
    time::Timestamp,
};
use tokio::task::JoinSet;

use crate::{
    link::{self, Link, Sent},
    metrics::Metrics,
    options::Options,
    server::Server,
};

/// How far the clocks of apis may differ.
const CLOCK_SKEW: Duration = Duration::from_secs(10);

/// How much longer than until it is full a bucket is kept, for clocks that differ.
const BUCKET_MARGIN: Duration = Duration::from_secs(60);

/// How long an accepted id is remembered.
const ACCEPTED_REMEMBERED: Duration = Duration::from_secs(10 * 60);

/// Limits on one Redis, or on the fallback while it is away.
pub struct RedisLimits {
    inner: Arc<Inner>,
}

struct Inner {
    link: Arc<Link>,
    fallback: Arc<dyn Limits>,
    namespace: String,
    admit: Script,
    accepted: &'static str,
    metrics: Metrics,
    /// The keeper of the connection: it ends with the last handle.
    _keeper: JoinSet<()>,
}

impl RedisLimits {
    /// Reads the options. Connects in the background, and again whenever it has to: Redis may be down. Needs a tokio
    /// runtime.
    ///
    /// *Misconfigured*: the URL or a file that it names cannot be read; the context never holds the password.
    pub fn new(options: Options) -> Result<Self> {
        let server = Server::new(&options.url, options.ca_file.as_deref())?;
        let link = Arc::new(Link::new(server, options.timeout, &options.namespace, options.entropy));
        let mut keeper = JoinSet::new();
        keeper.spawn(link::keep(Arc::clone(&link)));
        let inner = Inner {
            link,
            fallback: options.fallback,
            namespace: options.namespace,
            admit: Script::new(include_str!("admit.lua")),
            accepted: include_str!("accepted.lua"),
            metrics: Metrics::new(&options.meter),
            _keeper: keeper,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The port.
    pub fn limits(&self) -> Arc<dyn Limits> {
        Arc::<Inner>::clone(&self.inner)
    }

    /// `redis`: up, or degraded with its reason; never down, since nothing is lost without it.
    pub fn dependency(&self) -> Arc<dyn Dependency> {
        Arc::<Link>::clone(&self.inner.link)
    }
}

impl Inner {
    fn key(&self, kind: &str, name: impl std::fmt::Display) -> String {
        format!("{}:{kind}:{name}", self.namespace)
    }

    fn fingerprint_key(&self, id: MessageId) -> String {
        self.key("fingerprint", id)
    }

    fn accepted_keys<'a>(&'a self, ids: &'a [MessageId]) -> impl Iterator<Item = String> + 'a {
        ids.iter().map(|id| self.key("accepted", id))
    }

    /// The call of the script; see there for what it is given.
    fn admission(&self, request: &Request, at: Timestamp) -> Cmd {
        let mut command = cmd("EVALSHA");
        command.arg(self.admit.get_hash()).arg(request.buckets.len() + request.fingerprints.len());
        for bucket in &request.buckets {
            command.arg(self.key("rate", &bucket.name));
        }
        for (id, _) in &request.fingerprints {
            command.arg(self.fingerprint_key(*id));
        }
        command.arg(at.as_millis()).arg(request.cost).arg(request.buckets.len());
        for duration in [REMEMBERED, CLOCK_SKEW, BUCKET_MARGIN] {
            command.arg(millis(duration));
        }
        for bucket in &request.buckets {
            command.arg(bucket.per_second).arg(bucket.burst);
        }
        for (_, fingerprint) in &request.fingerprints {
            command.arg(&fingerprint.0[..]);
        }
        command
    }

    /// A command that remembers when `ids` were accepted.
    fn acceptance(&self, ids: &[MessageId], at: Timestamp) -> Cmd {
        let (at, ttl) = (at.as_millis(), millis(ACCEPTED_REMEMBERED));
        let mut command;
        if let [id] = ids {
            command = cmd("SET");
            command.arg(self.key("accepted", id)).arg(at).arg("NX").arg("PX").arg(ttl);
        } else {
            // With its text: nobody would hear that the server does not know it.
            command = cmd("EVAL");
            command.arg(self.accepted).arg(ids.len());
            self.accepted_keys(ids).for_each(|key| {
                command.arg(key);
            });
            command.arg(at).arg(ttl);
        }
        command
    }
}

#[async_trait]
impl Limits for Inner {
    async fn admit(&self, request: &Request, at: Timestamp) -> Result<Admission> {
        if request.buckets.is_empty() && request.fingerprints.is_empty() {
            return Ok(Admission::Go { different: Vec::new() });
        }
        let command = self.admission(request, at);
        match self.link.ask(&command, Some(&self.admit)).await {
            Some(answer) => admission(answer, request.fingerprints.len()),
            None => {
                self.metrics.fallback("admit");
                self.fallback.admit(request, at).await
            }
        }
    }

    /// Where Redis is away, what it remembers of these stays there until it expires: the key is then taken for 24 h.
    async fn forget(&self, ids: &[MessageId]) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        // The fallback may have admitted them.
        self.fallback.forget(ids).await?;
        let mut command = cmd("DEL");
        ids.iter().for_each(|id| {
            command.arg(self.fingerprint_key(*id));
        });
        if self.link.ask::<i64>(&command, None).await.is_none() {
            self.metrics.fallback("forget");
        }
        Ok(())
    }

    /// Waits for nothing. What is sent is on its way before any later question of this process.
    async fn accepted(&self, ids: &[MessageId], at: Timestamp) -> Result<()> {
        if ids.is_empty() {
            return Ok(());
        }
        match self.link.send(self.acceptance(ids, at)) {
            Sent::Queued => Ok(()),
            Sent::Full => {
                self.metrics.accepted_dropped(ids.len());
                Ok(())
            }
            Sent::Away => {
                self.metrics.fallback("accepted");
                self.fallback.accepted(ids, at).await
            }
        }
    }

    async fn is_accepted(&self, ids: &[MessageId]) -> Result<Vec<Option<Timestamp>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        // What was accepted while Redis was away is known here.
        let own = self.fallback.is_accepted(ids).await?;
        let mut command = cmd("MGET");
        self.accepted_keys(ids).for_each(|key| {
            command.arg(key);
        });
        let Some(shared) = self.link.ask::<Vec<Option<Vec<u8>>>>(&command, None).await else {
            self.metrics.fallback("is_accepted");
            return Ok(own);
        };
        let first = |(shared, own): (Option<Vec<u8>>, Option<Timestamp>)| {
            let shared = shared.as_deref().and_then(time);
            shared.into_iter().chain(own).min()
        };
        Ok(shared.into_iter().zip(own).map(first).collect())
    }
}

/// Reads the script's answer.
fn admission(answer: Vec<i64>, fingerprints: usize) -> Result<Admission> {
    match answer.split_first() {
        Some((0, different)) if different.len() == fingerprints => {
            Ok(Admission::Go { different: different.iter().map(|different| *different != 0).collect() })
        }
        Some((wait_ms, [])) if *wait_ms > 0 => {
            Ok(Admission::Wait { retry_after: Duration::from_millis(wait_ms.unsigned_abs()) })
        }
        _ => Err(Error::unknown("redis answered a request for admission with something else")),
    }
}

fn time(value: &[u8]) -> Option<Timestamp> {
    let millis = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some(Timestamp::from_millis(millis))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
