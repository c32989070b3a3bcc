//! Postgres: batches of new rows, and the writes of deliveries: planned, sending, sent.

use std::{sync::Arc, time::Duration};

use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tidings_domain::{
    address::EmailAddress,
    delivery::{Answer, Claim, DeliveryKey, LeaseToken, Outcome},
    filter::Filter,
    id::{self, MessageId, SubscriptionId},
    message::Message,
    notification::Notification,
    ports::{Clock as _, NewItem},
    subscription::SubscriptionRequest,
    topic::TopicName,
    trace_context::TraceContext,
};
use tidings_postgres::{Options, Store, StreamOptions};
use uuid::Uuid;

use super::{Hop, Rounds, Sample, Stopwatch, stream};
use crate::{
    chance::{Counter, SystemClock},
    floors, load,
    selfhosted::servers::Servers,
};

/// Rows of one insert.
const INSERTED: usize = 100;

/// Deliveries whose writes share statements.
const WRITTEN: usize = 50;

/// Tables as thin as they could be.
const TABLES: &str = "
    CREATE TABLE floor_items (id uuid PRIMARY KEY, topic text NOT NULL, message text NOT NULL,
        stored_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE floor_deliveries (about uuid, subscription uuid, round int, state text NOT NULL,
        due_at timestamptz NOT NULL, token uuid, attempts int NOT NULL DEFAULT 0, answer text, sent_at timestamptz,
        PRIMARY KEY (about, subscription, round));";

const INSERT: &str = "INSERT INTO floor_items (id, topic, message)
    SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[]) ON CONFLICT DO NOTHING";

const PLAN: &str = "INSERT INTO floor_deliveries (about, subscription, round, state, due_at, token)
    SELECT about, $2, 0, 'pending', now(), $3 FROM unnest($1::uuid[]) AS about ON CONFLICT DO NOTHING";

const SENDING: &str = "UPDATE floor_deliveries SET state = 'sending' FROM unnest($1::uuid[]) AS wanted
    WHERE about = wanted AND subscription = $2 AND round = 0 AND token = $3";

const SENT: &str = "UPDATE floor_deliveries SET state = 'sent', attempts = attempts + 1, answer = '250 taken',
        sent_at = now(), token = NULL
    FROM unnest($1::uuid[]) AS wanted WHERE about = wanted AND subscription = $2 AND round = 0 AND token = $3";

/// Both sides of inserts, of the table stream that they make, and of deliveries' writes.
pub(crate) async fn measure(servers: &Servers, rounds: Rounds) -> anyhow::Result<Vec<Hop>> {
    let pid = servers.pids().postgres;
    let floor = Floor::open(&servers.postgres.database().await).await?;
    let url = servers.postgres.database().await;
    let ours = Ours::open(&url).await?;
    let mut inserts = Hop::new("insert, 100 rows a statement");
    let mut read = Hop::new(stream::NAME);
    for round in 0..rounds.rounds {
        inserts.floor(floor.inserts(pid, rounds.count).await?);
        let backlog = stream::Backlog::begin(servers, &url).await;
        inserts.ours(ours.inserts(pid, rounds.count).await?);
        backlog.measure(&mut read, &ours.store, rounds.count, round % 2 == 0).await?;
    }
    let mut deliveries = Hop::new("a delivery's writes, groups of 50");
    for _ in 0..rounds.rounds {
        deliveries.floor(floor.deliveries(pid, rounds.count / 2).await?);
        deliveries.ours(ours.deliveries(pid, rounds.count / 2).await?);
    }
    floor.pool.close().await;
    ours.store.close().await;
    drop(ours);
    stream::end(servers, &url).await;
    Ok(vec![inserts, read, deliveries])
}

/// The floor: the statements alone, one session.
struct Floor {
    pool: PgPool,
    entropy: Counter,
}

impl Floor {
    async fn open(url: &str) -> anyhow::Result<Self> {
        let options: PgConnectOptions = url.parse()?;
        let pool = PgPoolOptions::new().max_connections(1).connect_with(options).await?;
        sqlx::raw_sql(TABLES).execute(&pool).await?;
        Ok(Self { pool, entropy: Counter::default() })
    }

    fn ids(&self, count: usize) -> Vec<Uuid> {
        (0..count).map(|_| id::new_v7(&SystemClock, &self.entropy)).collect()
    }

    /// Inserts `count` rows.
    async fn inserts(&self, pid: u32, count: u64) -> anyhow::Result<Sample> {
        let stopwatch = Stopwatch::start(Some(pid))?;
        let topics = vec!["messages"; INSERTED];
        for group in 0..count / INSERTED as u64 {
            let texts: Vec<String> =
                (0..INSERTED as u64).map(|at| load::body(group * INSERTED as u64 + at)).collect();
            sqlx::query(INSERT)
                .bind(self.ids(INSERTED))
                .bind(&topics)
                .bind(texts)
                .execute(&self.pool)
                .await?;
        }
        stopwatch.stop(count / INSERTED as u64 * INSERTED as u64)
    }

    /// The writes of `count` deliveries.
    async fn deliveries(&self, pid: u32, count: u64) -> anyhow::Result<Sample> {
        let stopwatch = Stopwatch::start(Some(pid))?;
        let subscription = id::new_v7(&SystemClock, &self.entropy);
        for _ in 0..count / WRITTEN as u64 {
            let (ids, token) = (self.ids(WRITTEN), id::new_v7(&SystemClock, &self.entropy));
            for statement in [PLAN, SENDING, SENT] {
                sqlx::query(statement).bind(&ids).bind(subscription).bind(token).execute(&self.pool).await?;
            }
        }
        stopwatch.stop(count / WRITTEN as u64 * WRITTEN as u64)
    }
}

/// What a store of the bench's own is opened with.
fn options(url: &str) -> Options {
    Options {
        url: url.to_owned(),
        ca_file: None,
        namespace: "bench".to_owned(),
        application_name: "tidings-bench".to_owned(),
        max_connections: 4,
        statement_timeout: Duration::from_secs(30),
        stream: StreamOptions::default(),
        clock: Arc::new(SystemClock),
        entropy: Arc::new(Counter::default()),
        meter: opentelemetry::global::meter("bench"),
    }
}

/// Ours: the store's ports, one caller.
struct Ours {
    store: Store,
    entropy: Counter,
    subscription: SubscriptionId,
}

impl Ours {
    async fn open(url: &str) -> anyhow::Result<Self> {
        let store = Store::new(options(url))?;
        store.provision().await?;
        store.complete().await?;
        let entropy = Counter::default();
        let request = SubscriptionRequest {
            new_id: SubscriptionId::new(&SystemClock, &entropy),
            topic: TopicName::messages(),
            email: EmailAddress::parse("reader@example.com")?,
            filter: Filter::default(),
            confirmed_by: Some("bench".to_owned()),
            by_admin: true,
            at: SystemClock.now(),
        };
        let requested = store.subscriptions().request(&request, &TraceContext::default()).await?;
        Ok(Self { store, entropy, subscription: requested.subscription.id })
    }

    /// Inserts `count` items.
    async fn inserts(&self, pid: u32, count: u64) -> anyhow::Result<Sample> {
        let (items, topic) = (self.store.items(), TopicName::messages());
        let stopwatch = Stopwatch::start(Some(pid))?;
        for group in 0..count / INSERTED as u64 {
            let stored_at = SystemClock.now();
            let rows: Vec<NewItem> = (0..INSERTED as u64)
                .map(|at| self.message(&topic, group * INSERTED as u64 + at))
                .map(|message| NewItem { message, stored_at })
                .collect();
            items.insert(&rows).await?;
        }
        stopwatch.stop(count / INSERTED as u64 * INSERTED as u64)
    }

    fn message(&self, topic: &TopicName, number: u64) -> Message {
        floors::message(topic, &load::body(number), &SystemClock, &self.entropy)
    }

    /// The writes of `count` deliveries.
    async fn deliveries(&self, pid: u32, count: u64) -> anyhow::Result<Sample> {
        let deliveries = self.store.deliveries();
        let stopwatch = Stopwatch::start(Some(pid))?;
        for _ in 0..count / WRITTEN as u64 {
            let token = LeaseToken(id::new_v7(&SystemClock, &self.entropy));
            let (at, until) = (SystemClock.now(), SystemClock.now().plus(Duration::from_secs(60)));
            let claim = Claim { token, owner: "bench".to_owned(), at, until };
            let plans: Vec<_> = (0..WRITTEN)
                .map(|_| {
                    let notification = Notification {
                        item: MessageId::new(&SystemClock, &self.entropy),
                        round: 0,
                        topic: TopicName::messages(),
                        replay: None,
                        captured_at: at,
                        published_at: at,
                    };
                    floors::plan(notification, self.subscription, &claim)
                })
                .collect();
            let keys: Vec<(DeliveryKey, LeaseToken)> =
                plans.iter().flat_map(|plan| &plan.page).map(|delivery| (delivery.key, token)).collect();
            deliveries.plan(plans).await?;
            deliveries.sending(&keys, until).await?;
            let answer =
                Answer { at: SystemClock.now(), phase: "message".into(), code: 250, text: "taken".into() };
            let sent = keys
                .iter()
                .map(|(key, token)| (*key, *token, Outcome::Sent { answer: answer.clone() }))
                .collect();
            floors::answers(deliveries.settle(sent, SystemClock.now()).await?)?;
        }
        stopwatch.stop(count / WRITTEN as u64 * WRITTEN as u64)
    }
}
