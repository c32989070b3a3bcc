//! `kill -9` and SIGTERM while clients post.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use crate::harness::Server;

const READER: &str = "reader@example.com";

/// How often the server is killed.
const KILLS: u64 = 20;

/// The wait of a client between two posts.
const PACE: Duration = Duration::from_millis(8);

/// A client that posts until it is told to end: what was accepted, by subject, with every id that was answered.
struct Client {
    client: reqwest::Client,
    url: String,
    name: &'static str,
    /// Whether it sends an Idempotency-Key and repeats a post until it is accepted.
    keyed: bool,
    ends: Arc<AtomicBool>,
}

impl Client {
    async fn run(self) -> BTreeMap<String, BTreeSet<String>> {
        let mut accepted: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for number in 0.. {
            if self.ends.load(Ordering::Relaxed) {
                break;
            }
            let subject = format!("{}-{number}", self.name);
            loop {
                let id = self.post(&subject).await;
                let again =
                    self.keyed && (id.is_none() || number % 7 == 0 && !accepted.contains_key(&subject));
                if let Some(id) = id {
                    accepted.entry(subject.clone()).or_default().insert(id);
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
        let url = format!("{}/v1/topics/messages/messages", self.url);
        let mut request = self.client.post(url).json(&body);
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

fn clients(server: &Server, ends: &Arc<AtomicBool>) -> JoinSet<BTreeMap<String, BTreeSet<String>>> {
    let mut posting = JoinSet::new();
    for (name, keyed) in [("keyed-a", true), ("keyed-b", true), ("bare-a", false), ("bare-b", false)] {
        let (client, url, ends) = (server.client.clone(), server.url.clone(), Arc::clone(ends));
        posting.spawn(Client { client, url, name, keyed, ends }.run());
    }
    posting
}

async fn accepted(posting: JoinSet<BTreeMap<String, BTreeSet<String>>>) -> BTreeMap<String, String> {
    let all: BTreeMap<_, _> = posting.join_all().await.into_iter().flatten().collect();
    let one = |(subject, ids): (String, BTreeSet<String>)| {
        assert_eq!(ids.len(), 1, "{subject} was answered with several ids: {ids:?}");
        (subject, ids.into_iter().next().unwrap())
    };
    all.into_iter().map(one).collect()
}

fn by_subject(entries: Vec<Value>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for entry in entries {
        *counts.entry(entry["subject"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn killed_twenty_times_under_a_stream_of_posts_it_loses_nothing() {
    let mut server = Server::start_with(&[("TIDINGS_MAILER_LEASE_MS", "1000")]).await;
    server.subscribe(READER).await;
    let ends = Arc::new(AtomicBool::new(false));
    let posting = clients(&server, &ends);
    for kill in 0..KILLS {
        // Moments that differ from kill to kill, from right after the start to well under way.
        sleep(Duration::from_millis(kill * 37 % 160)).await;
        server.kill().await;
        server.restart().await;
    }
    ends.store(true, Ordering::Relaxed);
    let accepted = accepted(posting).await;
    assert!(accepted.len() > 100, "only {} were accepted", accepted.len());

    for (subject, id) in &accepted {
        let status = server.finished(id).await;
        assert_eq!(status["state"], "done", "{subject}: {status:#}");
        assert_eq!(status["deliveries"]["sent"], 1, "{subject}: {status:#}");
    }
    let stored = by_subject(server.all("/v1/messages").await);
    let mailed = by_subject(server.all(&format!("/mailbox?to={READER}")).await);
    for (subject, id) in &accepted {
        // Without a key a client that got no answer has no way to ask again, so that its next post is another message.
        assert_eq!(stored.get(subject), Some(&1), "{subject} is stored once");
        let copies = mailed.get(subject).copied().unwrap_or(0);
        assert!(copies >= 1, "{subject} was not mailed");
        if copies > 1 {
            let deliveries = server.get(&format!("/v1/messages/{id}/deliveries")).await;
            let unknowns = deliveries["data"][0]["unknowns"].as_u64().unwrap();
            assert!(unknowns as usize >= copies - 1, "{subject}: {copies} copies, {deliveries:#}");
        }
    }
    assert_eq!(server.all("/v1/dead-letters").await, Vec::<Value>::new());
}

#[tokio::test]
async fn sigterm_under_load_ends_in_time_and_counts_no_attempt() {
    let mut server = Server::start_with(&[("TIDINGS_GRACE_S", "15")]).await;
    server.subscribe(READER).await;
    let ends = Arc::new(AtomicBool::new(false));
    let posting = clients(&server, &ends);
    // Under load: some have gone all the way, more are on it.
    server.mail(READER, "the text of bare-a-20").await;
    let began = tokio::time::Instant::now();
    let ended = server.stop().await;
    assert!(ended.success(), "{ended}:\n{}", server.log());
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    server.restart().await;
    ends.store(true, Ordering::Relaxed);
    let accepted = accepted(posting).await;
    for (subject, id) in &accepted {
        let status = server.finished(id).await;
        assert_eq!(status["state"], "done", "{subject}: {status:#}");
        let deliveries = server.get(&format!("/v1/messages/{id}/deliveries")).await;
        let delivery = &deliveries["data"][0];
        assert_eq!((&delivery["attempts"], &delivery["unknowns"]), (&json!(1), &json!(0)), "{delivery:#}");
    }
    let mailed = by_subject(server.all(&format!("/mailbox?to={READER}")).await);
    for subject in accepted.keys() {
        assert_eq!(mailed.get(subject), Some(&1), "{subject}");
    }
    assert_eq!(server.all("/v1/dead-letters").await, Vec::<Value>::new());
}
