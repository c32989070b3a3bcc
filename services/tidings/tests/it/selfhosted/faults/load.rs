//! A client that posts all the while and never gives a message up.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{StatusCode, header};
use serde_json::Value;
use tokio::task::JoinSet;

use super::{
    super::stack::{Stack, until},
    ledger::Ledger,
};

/// Messages that are under way at once.
const WORKERS: usize = 3;

/// Between two messages of a worker: the machine's cores belong to the servers.
const PAUSE: Duration = Duration::from_millis(30);

/// Before a message is sent again.
const AGAIN: Duration = Duration::from_millis(50);

/// How long an answer is waited for: longer than the api ever takes.
const ANSWER: Duration = Duration::from_secs(40);

/// Posts with keys of its own, each message again and again until it is accepted.
pub(super) struct Load {
    tasks: JoinSet<()>,
    told: Arc<Told>,
}

const POSTING: u8 = 0;
const PAUSED: u8 = 1;
const ENDED: u8 = 2;

/// What its workers know together.
struct Told {
    url: String,
    prefix: String,
    mode: AtomicU8,
    under_way: AtomicUsize,
    /// The text of each message that was accepted, by its id.
    accepted: Mutex<BTreeMap<String, String>>,
    /// How often what was answered instead of 202.
    refused: Mutex<BTreeMap<String, usize>>,
    /// What must not be answered.
    wrong: Mutex<Option<String>>,
}

impl Load {
    /// Begins to post to the stack's api.
    pub(super) fn on(stack: &Stack) -> Self {
        let told = Arc::new(Told {
            url: format!("{}/v1/topics/messages/messages", stack.url),
            prefix: stack.namespace.clone(),
            mode: AtomicU8::new(POSTING),
            under_way: AtomicUsize::new(0),
            accepted: Mutex::default(),
            refused: Mutex::default(),
            wrong: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        for worker in 0..WORKERS {
            tasks.spawn(work(Arc::clone(&told), worker));
        }
        Self { tasks, told }
    }

    /// How many were accepted so far.
    pub(super) fn accepted(&self) -> usize {
        if let Some(wrong) = &*lock(&self.told.wrong) {
            panic!("{wrong}");
        }
        lock(&self.told.accepted).len()
    }

    /// How many answers were no 202 so far.
    pub(super) fn refused(&self) -> usize {
        lock(&self.told.refused).values().sum()
    }

    /// Waits until `count` more were accepted.
    pub(super) async fn until_accepted_more(&self, count: usize) {
        let wanted = self.accepted() + count;
        until(&format!("{wanted} messages accepted"), async || self.accepted() >= wanted).await;
    }

    /// Waits until `count` more answers were no 202.
    pub(super) async fn until_refused_more(&self, count: usize) {
        let wanted = self.refused() + count;
        until(&format!("{wanted} posts without a 202"), async || self.refused() >= wanted).await;
    }

    /// Stops posting; returns when each message that was begun is accepted.
    pub(super) async fn pause(&self) {
        self.told.mode.store(PAUSED, Ordering::SeqCst);
        until("what was begun is accepted", async || self.told.under_way.load(Ordering::SeqCst) == 0).await;
    }

    /// Goes on.
    pub(super) fn resume(&self) {
        self.told.mode.store(POSTING, Ordering::SeqCst);
    }

    /// What was accepted up to now: all of it, after a pause.
    pub(super) fn ledger(&self) -> Ledger {
        let refused = lock(&self.told.refused).clone();
        Ledger::new(lock(&self.told.accepted).clone(), refused)
    }

    /// Ends when each message that was begun is accepted: nothing is unknown any more.
    pub(super) async fn end(mut self) -> Ledger {
        self.pause().await;
        self.told.mode.store(ENDED, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.accepted();
        self.ledger()
    }
}

async fn work(told: Arc<Told>, worker: usize) {
    let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().unwrap();
    let mut number = 0;
    loop {
        told.under_way.fetch_add(1, Ordering::SeqCst);
        let mode = told.mode.load(Ordering::SeqCst);
        if mode == POSTING {
            number += 1;
            told.deliver(&client, format!("{} message {worker}-{number}", told.prefix)).await;
        }
        told.under_way.fetch_sub(1, Ordering::SeqCst);
        if mode == ENDED {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

impl Told {
    /// Sends one message until it is accepted. 503 and no answer at all mean that nobody knows: its key makes it the same message.
    async fn deliver(&self, client: &reqwest::Client, text: String) {
        let mut first_id = None::<String>;
        loop {
            let (status, body) = match self.post(client, &text).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.refuse("no answer");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            };
            if let Some(id) = body["id"].as_str()
                && first_id.get_or_insert_with(|| id.to_owned()) != id
            {
                self.complain(format!("the same key is another message: {first_id:?}, then {body}"));
                return;
            }
            match (status, &first_id) {
                (StatusCode::ACCEPTED, Some(id)) => {
                    lock(&self.accepted).insert(id.clone(), text);
                    return;
                }
                (StatusCode::SERVICE_UNAVAILABLE, _) => {
                    self.refuse(body["type"].as_str().unwrap_or("503 without a type"));
                    tokio::time::sleep(AGAIN).await;
                }
                _ => {
                    self.complain(format!("a fault ends in {status}: {body}"));
                    return;
                }
            }
        }
    }

    async fn post(&self, client: &reqwest::Client, text: &str) -> reqwest::Result<(StatusCode, Value)> {
        let request = client.post(&self.url).header("idempotency-key", text);
        let response =
            request.header(header::CONTENT_TYPE, "text/plain").body(text.to_owned()).send().await?;
        Ok((response.status(), response.json().await?))
    }

    fn refuse(&self, why: &str) {
        *lock(&self.refused).entry(why.to_owned()).or_default() += 1;
    }

    fn complain(&self, wrong: String) {
        lock(&self.wrong).get_or_insert(wrong);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
