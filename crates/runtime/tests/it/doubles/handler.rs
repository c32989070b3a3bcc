use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use futures::{FutureExt as _, future::BoxFuture};
use tidings_domain::{Error, Result, ports::Received};
use tidings_runtime::handler::{Handler, Reject, Verdict};
use tokio::time::Instant;

type Work = Box<dyn Fn(Vec<String>) -> BoxFuture<'static, Vec<Verdict>> + Send + Sync>;

/// A handler that does what a test says, and keeps which texts each call had and when.
pub(crate) struct Script {
    work: Work,
    calls: Mutex<Vec<(Instant, Vec<String>)>>,
    pub(crate) received: Mutex<Vec<Received>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    /// What the next probes answer; then Ok.
    pub(crate) probe_errors: Mutex<VecDeque<Error>>,
    pub(crate) probes: Mutex<Vec<Instant>>,
}

impl Script {
    /// One verdict a text, at once.
    pub(crate) fn each(verdict: impl Fn(&str) -> Verdict + Send + Sync + 'static) -> Arc<Self> {
        Self::new(move |texts| {
            let verdicts = texts.iter().map(|text| verdict(text)).collect();
            async move { verdicts }.boxed()
        })
    }

    pub(crate) fn new(
        work: impl Fn(Vec<String>) -> BoxFuture<'static, Vec<Verdict>> + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            work: Box::new(work),
            calls: Mutex::default(),
            received: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            probe_errors: Mutex::default(),
            probes: Mutex::default(),
        })
    }

    pub(crate) fn calls(&self) -> Vec<Vec<String>> {
        self.calls.lock().unwrap().iter().map(|(_, texts)| texts.clone()).collect()
    }

    pub(crate) fn call_times(&self) -> Vec<Instant> {
        self.calls.lock().unwrap().iter().map(|(at, _)| *at).collect()
    }

    /// How many calls had `text`.
    pub(crate) fn calls_with(&self, text: &str) -> usize {
        self.calls().iter().filter(|texts| texts.iter().any(|t| t == text)).count()
    }

    pub(crate) fn most_under_way(&self) -> usize {
        self.most_under_way.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Handler for Script {
    async fn handle(&self, batch: &[Received]) -> Vec<Verdict> {
        let texts: Vec<_> =
            batch.iter().map(|r| String::from_utf8_lossy(&r.envelope.body).into_owned()).collect();
        self.calls.lock().unwrap().push((Instant::now(), texts.clone()));
        self.received.lock().unwrap().extend_from_slice(batch);
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        let verdicts = (self.work)(texts).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        verdicts
    }

    async fn probe(&self) -> Result<()> {
        self.probes.lock().unwrap().push(Instant::now());
        self.probe_errors.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }
}

pub(crate) fn done() -> Verdict {
    Verdict::Done
}

pub(crate) fn retry() -> Verdict {
    Verdict::Retry { detail: "it failed".to_owned() }
}

pub(crate) fn away() -> Verdict {
    Verdict::Unavailable { detail: "the store is away".to_owned() }
}

pub(crate) fn dead(reason: &'static str) -> Verdict {
    Verdict::DeadLetter(Reject { reason, detail: "it cannot".to_owned(), message_id: None, topic: None })
}
