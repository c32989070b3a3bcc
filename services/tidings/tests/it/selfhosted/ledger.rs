//! Posting under faults, and the account that has to balance afterwards: every message that was answered 202 is stored
//! once, and mailed or a dead letter; nothing else is; who is mailed twice is a counted *unknown*.
//!
//! ```ignore
//! let load = Load::begin(&stack, 4);            // four clients; half of them with Idempotency-Key, repeating until 202
//! load.until_accepted(50).await;                // fifty more than now
//! stack.kill("mailer").await;
//! ...
//! let ledger = load.end().await;
//! ledger.settled(&stack, "reader@example.com").await;   // waits for all of it, and checks
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::stack::{Stack, until};

/// The wait of a client between two posts.
const PACE: Duration = Duration::from_millis(10);

/// How long a client waits for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Clients that post until they are told to end.
pub(crate) struct Load {
    posting: JoinSet<BTreeMap<String, BTreeSet<String>>>,
    ends: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
}

/// What was accepted: each subject with its id.
pub(crate) struct Ledger {
    accepted: BTreeMap<String, String>,
}

struct Poster {
    client: reqwest::Client,
    url: String,
    name: String,
    /// Whether it sends an Idempotency-Key and repeats a post until it is accepted.
    keyed: bool,
    ends: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
}

impl Load {
    /// Begins to post to the stack's api.
    pub(crate) fn begin(stack: &Stack, clients: usize) -> Self {
        Self::begin_at(&[&stack.url], clients)
    }

    /// Begins to post to several apis in turn.
    pub(crate) fn begin_at(urls: &[&str], clients: usize) -> Self {
        let (ends, accepted) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let client = reqwest::Client::builder().no_proxy().timeout(ANSWER).build().unwrap();
        let mut posting = JoinSet::new();
        for number in 0..clients {
            let keyed = number % 2 == 0;
            let poster = Poster {
                client: client.clone(),
                url: urls[number % urls.len()].to_owned(),
                name: format!("{}{number}", if keyed { "keyed" } else { "bare" }),
                keyed,
                ends: Arc::clone(&ends),
                accepted: Arc::clone(&accepted),
            };
            posting.spawn(poster.run());
        }
        Self { posting, ends, accepted }
    }

    /// How many were accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more were accepted.
    pub(crate) async fn until_accepted(&self, more: usize) {
        let enough = self.accepted() + more;
        until(&format!("{more} more posts are accepted"), async || self.accepted() >= enough).await;
    }

    /// Ends it; what was accepted, each under one id whatever happened.
    pub(crate) async fn end(self) -> Ledger {
        self.ends.store(true, Ordering::Relaxed);
        let all: BTreeMap<_, _> = self.posting.join_all().await.into_iter().flatten().collect();
        let one = |(subject, ids): (String, BTreeSet<String>)| {
            assert_eq!(ids.len(), 1, "{subject} was answered with several ids: {ids:?}");
            (subject, ids.into_iter().next().unwrap())
        };
        Ledger { accepted: all.into_iter().map(one).collect() }
    }
}

impl Poster {
    async fn run(self) -> BTreeMap<String, BTreeSet<String>> {
        let mut accepted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for number in 0.. {
            if self.ends.load(Ordering::Relaxed) {
                break;
            }
            let subject = format!("{}-{number}.", self.name);
            loop {
                let id = self.post(&subject).await;
                // Now and then it asks twice, as a client does that has lost the answer.
                let again =
                    self.keyed && (id.is_none() || number % 7 == 0 && !accepted.contains_key(&subject));
                if let Some(id) = id {
                    accepted.entry(subject.clone()).or_default().insert(id);
                    self.accepted.fetch_add(1, Ordering::Relaxed);
                }
                sleep(PACE).await;
                if !again {
                    break;
                }
            }
        }
        accepted
    }

    async fn post(&self, subject: &str) -> Option<String> {
        let body = json!({ "message": format!("the text of {subject}"), "subject": subject });
        let mut request = self.client.post(format!("{}/v1/topics/messages/messages", self.url)).json(&body);
        if self.keyed {
            request = request.header("idempotency-key", subject);
        }
        let response = request.send().await.ok()?;
        if response.status() != StatusCode::ACCEPTED {
            return None;
        }
        let body: Value = response.json().await.ok()?;
        Some(body["id"].as_str().unwrap().to_owned())
    }
}

impl Ledger {
    /// Waits until every accepted message is done, and checks that the account balances for its one reader: stored once,
    /// mailed, nothing phantom, doubled only as often as there are unknowns. Messages whose 202 was never heard may be there
    /// too: those are the clients', without a key as often as they posted them.
    pub(crate) async fn settled(&self, stack: &Stack, reader: &str) {
        for (subject, id) in &self.accepted {
            let status = self.finished(stack, id).await;
            assert_eq!(status["state"], "done", "{subject}: {status:#}\n{}", stack.log());
            assert_eq!(status["deliveries"]["sent"], 1, "{subject}: {status:#}");
        }
        let stored = count(
            stack.all("/v1/messages").await.iter().map(|entry| entry["subject"].as_str().unwrap().to_owned()),
        );
        let mailed = count(stack.smtp.mails().iter().map(|mail| {
            assert_eq!(mail.to, reader);
            mail.header("Subject").unwrap_or_default()
        }));
        for subject in mailed.keys() {
            assert!(stored.contains_key(subject), "{subject} was mailed and is not stored");
        }
        for (subject, id) in &self.accepted {
            assert_eq!(stored.get(subject), Some(&1), "{subject} is stored once");
            let copies = mailed.get(subject).copied().unwrap_or(0);
            assert!(copies >= 1, "{subject} was not mailed");
            if copies > 1 {
                let deliveries = stack.deliveries(id).await;
                let unknowns = deliveries[0]["unknowns"].as_u64().unwrap();
                assert!(unknowns as usize >= copies - 1, "{subject}: {copies} copies, {deliveries:#?}");
            }
        }
    }

    /// Its status once it is done or a dead letter: under faults longer than one `?wait`.
    async fn finished(&self, stack: &Stack, id: &str) -> Value {
        for _ in 0..4 {
            let status = stack.get(&format!("/v1/messages/{id}?wait=30s")).await;
            if matches!(status["state"].as_str(), Some("done" | "dead_letter")) {
                return status;
            }
        }
        stack.finished(id).await
    }

    /// All deliveries of what was accepted.
    pub(crate) async fn deliveries(&self, stack: &Stack) -> Vec<Value> {
        let mut all = Vec::new();
        for id in self.accepted.values() {
            all.extend(stack.deliveries(id).await);
        }
        all
    }

    /// How many mails were sent more than once.
    pub(crate) fn doubled(&self, stack: &Stack) -> usize {
        let mailed = count(stack.smtp.mails().iter().map(|mail| mail.header("Subject").unwrap_or_default()));
        self.accepted.keys().filter(|subject| mailed.get(*subject).copied().unwrap_or(0) > 1).count()
    }
}

fn count(subjects: impl Iterator<Item = String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for subject in subjects {
        *counts.entry(subject).or_default() += 1;
    }
    counts
}
