//! `tidings demo`: the whole tour by itself, in a temporary folder and on free ports, against a server of its own.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use clap::Args;
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use tidings_domain::time::Timestamp;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use self::server::Server;
use crate::cli::output::{Failure, print};

mod server;

/// Who is mailed.
const READER: &str = "reader@example.com";

/// How long one message may take to be accepted, kills and retries included.
const ACCEPT: Duration = Duration::from_secs(60);

/// The wait between a client's blind retries.
const RETRY: Duration = Duration::from_millis(50);

/// Status calls at once, at the end.
const ASKING: usize = 64;

/// How long the end waits for the last mail.
const SETTLE: Duration = Duration::from_secs(60);

/// Show a whole tour by itself, in a temporary folder and on free ports.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Messages to post in the last part.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(3..=100_000))]
    messages: u32,
    /// Messages a second.
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<(), Failure> {
        let mut interrupted = crate::signals::Signals::catch().map_err(Failure::refused)?;
        // The server is this future's own: whichever way it ends, the server ends with it.
        tokio::select! {
            biased;
            signal = interrupted.next() => Err(Failure::refused(format!("ended by {signal}, the server with it"))),
            done = self.tour() => done,
        }
    }

    async fn tour(self) -> Result<(), Failure> {
        let folder = tempfile::Builder::new().prefix("tidings-demo-").tempdir().map_err(Failure::refused)?;
        let mut server = Server::new(PathBuf::from(folder.path()))?;
        let started = server.start().await?;
        say(&format!(
            "A server of its own runs on {} (ready {} after it was started); its files are in {}.\n",
            server.url(),
            millis(started),
            folder.path().display()
        ))?;
        let client = reqwest::Client::builder()
            .timeout(Duration::from_secs(45))
            .no_proxy()
            .build()
            .map_err(Failure::refused)?;
        let tour = Tour { client, url: server.url().to_owned() };

        say(&format!("1. {READER} asks to hear of the topic `messages`"))?;
        let asked = Instant::now();
        tour.subscribe().await?;
        let link = tour.confirmation_link().await?;
        say(&format!("   the mail that asks whether that is so came after {}", millis(asked.elapsed())))?;

        say("2. the reader follows the link in that mail and presses the button")?;
        tour.confirm(&link).await?;

        say("3. one POST, hop by hop")?;
        tour.one_message().await?;

        say(&format!(
            "4. {} POSTs at {} a second, and `kill -9` twice in between; a client whose POST fails repeats it with the same Idempotency-Key",
            self.messages, self.rate
        ))?;
        let counts = self.storm(&tour, &mut server).await?;
        if counts.sent_twice > 0 {
            say(
                "   (what was being mailed at a kill has an unknown outcome and is mailed again: sent twice counts these)",
            )?;
        }
        drop(server);
        say(&format!("\n{counts}"))?;
        if counts.is_clean() {
            Ok(())
        } else {
            Err(Failure::refused("something is missing: see the line above"))
        }
    }

    /// Posts all of them while the server is killed twice, then counts what became of each.
    async fn storm(&self, tour: &Tour, server: &mut Server) -> Result<Counts, Failure> {
        let mut ticks = interval(Duration::from_secs(1) / self.rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let began = Instant::now();
        let mut posts = JoinSet::new();
        for number in 0..self.messages {
            ticks.tick().await;
            let tour = tour.clone();
            posts.spawn(async move { tour.post_until_accepted(number).await });
            if number == self.messages / 3 || number == self.messages * 2 / 3 {
                server.kill().await?;
                let ready = server.start().await?;
                say(&format!("   killed after {} POSTs; ready again {} later", number + 1, millis(ready)))?;
            }
        }
        let mut ids = Vec::new();
        let mut retried = 0;
        while let Some(posted) = posts.join_next().await {
            if let Some((id, tries)) = posted.map_err(Failure::refused)? {
                ids.push(id);
                retried += u32::from(tries > 1);
            }
        }
        say(&format!(
            "   all were posted after {:.1} s, {retried} of them more than once",
            began.elapsed().as_secs_f32()
        ))?;
        tour.count(self.messages, ids).await
    }
}

/// What became of the messages.
#[derive(Debug, Default)]
struct Counts {
    posted: u32,
    accepted: usize,
    stored: usize,
    mailed: usize,
    dead_letters: usize,
    lost: usize,
    sent_twice: usize,
}

impl Counts {
    /// Whether nothing was lost; a mail sent twice is allowed and counted.
    fn is_clean(&self) -> bool {
        self.lost == 0 && self.accepted == self.posted as usize
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { posted: _, accepted, stored, mailed, dead_letters, lost, sent_twice } = self;
        write!(
            f,
            "accepted {accepted}, stored {stored}, mailed {mailed}, dead letters {dead_letters}, lost {lost}, sent twice {sent_twice}"
        )
    }
}

/// A client of the server.
#[derive(Clone)]
struct Tour {
    client: reqwest::Client,
    url: String,
}

impl Tour {
    async fn subscribe(&self) -> Result<(), Failure> {
        let url = format!("{}/v1/topics/messages/subscriptions", self.url);
        self.send(self.client.post(url).json(&json!({ "email": READER }))).await.map(drop)
    }

    /// The link of the confirmation mail, as the mailbox shows it.
    async fn confirmation_link(&self) -> Result<String, Failure> {
        let marker = format!("{}/confirm/", self.url);
        let query = [("to", READER), ("wait", "10s")];
        let list = self.send(self.client.get(format!("{}/mailbox", self.url)).query(&query)).await?;
        let id =
            list["data"][0]["id"].as_u64().ok_or_else(|| Failure::refused("no confirmation mail came"))?;
        let mail = self.send(self.client.get(format!("{}/mailbox/{id}", self.url))).await?;
        let links = mail["links"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let link = links.into_iter().find(|link| link.starts_with(&marker));
        link.map(str::to_owned).ok_or_else(|| Failure::refused("the confirmation mail holds no link"))
    }

    async fn confirm(&self, link: &str) -> Result<(), Failure> {
        self.send(self.client.post(link)).await.map(drop)
    }

    async fn one_message(&self) -> Result<(), Failure> {
        let posted = Instant::now();
        let url = format!("{}/v1/topics/messages/messages", self.url);
        let request =
            self.client.post(url).header(header::CONTENT_TYPE, "text/plain").body("Hello from the demo");
        let accepted = self.send(request).await?;
        let answered = posted.elapsed();
        let status = self.status(accepted["id"].as_str().unwrap_or_default()).await?;
        say(&format!("   answered 202 after {}", millis(answered)))?;
        let at = |name: &str| status["timeline"][name].as_str().and_then(Timestamp::parse);
        let begin = at("accepted_at").unwrap_or_default();
        let hops = [
            ("accepted_at", "accepted: on disk in the queue `items`"),
            ("stored_at", "stored: a row in the table `items`"),
            ("captured_at", "captured from the table's stream"),
            ("published_at", "published as a notification"),
            ("first_mail_at", "mailed"),
        ];
        for (name, words) in hops {
            match at(name) {
                Some(at) => say(&format!("   {:>4} ms  {words}", at.since(begin).as_millis()))?,
                None => say(&format!("      ?     not {words}"))?,
            }
        }
        Ok(())
    }

    /// Posts one message with a key of its own, again and again until it is accepted: its id, and how often it took.
    async fn post_until_accepted(&self, number: u32) -> Option<(String, u32)> {
        let until = Instant::now() + ACCEPT;
        let mut tries = 0;
        while Instant::now() < until {
            tries += 1;
            let request = self
                .client
                .post(format!("{}/v1/topics/messages/messages", self.url))
                .header(header::CONTENT_TYPE, "text/plain")
                .header("idempotency-key", format!("demo-{number}"))
                .body(format!("Message {number} of the demo"));
            if let Ok(response) = request.send().await
                && response.status() == StatusCode::ACCEPTED
                && let Ok(body) = response.json::<Value>().await
            {
                return body["id"].as_str().map(|id| (id.to_owned(), tries));
            }
            sleep(RETRY).await;
        }
        None
    }

    async fn count(&self, posted: u32, ids: Vec<String>) -> Result<Counts, Failure> {
        let mut counts = Counts { posted, accepted: ids.len(), ..Counts::default() };
        let asking = std::sync::Arc::new(Semaphore::new(ASKING));
        let mut statuses = JoinSet::new();
        for id in ids {
            let (tour, asking) = (self.clone(), std::sync::Arc::clone(&asking));
            statuses.spawn(async move {
                let _one = asking.acquire().await.expect("the semaphore is never closed");
                tour.status(&id).await
            });
        }
        while let Some(status) = statuses.join_next().await {
            let status = status.map_err(Failure::refused)??;
            let is_stored = status["timeline"]["stored_at"].is_string();
            let is_mailed = status["deliveries"]["sent"].as_u64().unwrap_or(0) > 0;
            let is_dead = status["dead_letters"].as_u64().unwrap_or(0) > 0;
            counts.stored += usize::from(is_stored);
            counts.mailed += usize::from(is_mailed);
            counts.dead_letters += usize::from(is_dead);
            counts.lost += usize::from(!is_mailed && !is_dead);
        }
        counts.sent_twice = self.sent_twice().await?;
        Ok(counts)
    }

    /// Waits until a message is done or a dead letter; then, or at the end of the time, what is known of it.
    async fn status(&self, id: &str) -> Result<Value, Failure> {
        let until = Instant::now() + SETTLE;
        loop {
            let url = format!("{}/v1/messages/{id}", self.url);
            let status = self.send(self.client.get(url).query(&[("wait", "30s")])).await?;
            if matches!(status["state"].as_str(), Some("done" | "dead_letter")) || Instant::now() >= until {
                return Ok(status);
            }
        }
    }

    /// Mails in the mailbox beyond the first with the same Message-ID.
    async fn sent_twice(&self) -> Result<usize, Failure> {
        let mut times: BTreeMap<String, usize> = BTreeMap::new();
        let mut cursor: Option<String> = None;
        loop {
            let request =
                self.client.get(format!("{}/mailbox", self.url)).query(&[("to", READER), ("limit", "250")]);
            let list = self.send(request.query(&[("cursor", &cursor)])).await?;
            for mail in list["data"].as_array().into_iter().flatten() {
                *times.entry(self.message_id(&mail["id"]).await?).or_default() += 1;
            }
            cursor = list["next_cursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                return Ok(times.values().map(|times| times - 1).sum());
            }
        }
    }

    async fn message_id(&self, mail: &Value) -> Result<String, Failure> {
        let source = self.send(self.client.get(format!("{}/mailbox/{mail}/source", self.url))).await?;
        let lines = source.as_str().unwrap_or_default().lines();
        let id = lines.into_iter().find_map(|line| line.strip_prefix("Message-ID:"));
        id.map(|id| id.trim().to_owned()).ok_or_else(|| Failure::refused("a mail has no Message-ID"))
    }

    /// Sends a request that has to succeed.
    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, Failure> {
        let response = request.header(header::ACCEPT, "application/json, text/plain").send().await;
        let response =
            response.map_err(|error| Failure::unreachable(format!("the demo's server: {error}")))?;
        let status = response.status();
        let body = response
            .bytes()
            .await
            .map_err(|error| Failure::unreachable(format!("the demo's server: {error}")))?;
        if !status.is_success() {
            return Err(Failure::refused(format!(
                "the demo's server answered {status}: {}",
                String::from_utf8_lossy(&body)
            )));
        }
        let text = || String::from_utf8_lossy(&body).into_owned().into();
        Ok(serde_json::from_slice(&body).unwrap_or_else(|_| text()))
    }
}

fn say(line: &str) -> Result<(), Failure> {
    print(&format!("{line}\n"))
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
