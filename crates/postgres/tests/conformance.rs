//! Postgres passes every suite of the ports that it implements. Each installation is a database of its own behind a proxy of
//! its own, so that the server of one can be away while the others' is there.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests' own clock and chance, and a thread that tidies up"
)]

use std::{
    process::ExitCode,
    sync::{
        Arc, Mutex as Lock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tidings_conformance::{Adapter, Disturbance, Fixture, Need, OpenInsert, Ports, SentMail, Suite};
use tidings_domain::{
    ports::{Clock, Entropy, NewItem},
    text::Subject,
    time::Timestamp,
};
use tidings_postgres::{Options, Store, StreamOptions};
use tidings_servers::{postgres::Postgres, proxy::Proxy};

struct PostgresAdapter;

#[async_trait]
impl Adapter for PostgresAdapter {
    fn suites(&self) -> Vec<Suite> {
        vec![
            Suite::Items,
            Suite::Changes,
            Suite::Catalog,
            Suite::Subscriptions,
            Suite::Deliveries,
            Suite::DeadLetters,
        ]
    }

    fn cannot(&self, need: Need) -> Option<&'static str> {
        match need {
            Need::BusLease
            | Need::Disturb(
                Disturbance::Blocked
                | Disturbance::Unbind
                | Disturbance::MailTransient
                | Disturbance::MailRecipient
                | Disturbance::MailPermanent
                | Disturbance::MailUnknown
                | Disturbance::MailLogin,
            ) => Some("of a port that this adapter does not implement"),
            Need::OpenInsert
            | Need::OverlappingInserts
            | Need::Disturb(Disturbance::Restart | Disturbance::Unavailable | Disturbance::Gap) => None,
        }
    }

    async fn install(&self) -> Box<dyn Fixture> {
        let server = Postgres::shared().await;
        let direct = server.database().await;
        let proxy = Proxy::to(server.addr()).await;
        let options = options(&proxy.url(&direct));
        let store = Store::new(options.clone()).expect("options");
        store.provision().await.expect("provision");
        store.complete().await.expect("complete");
        store.close().await;
        Box::new(PostgresFixture { options, direct, proxy, stores: Lock::default() })
    }
}

/// Names slots and publications, which are the whole server's.
static NEXT: AtomicU32 = AtomicU32::new(0);

fn options(url: &str) -> Options {
    Options {
        url: url.to_owned(),
        ca_file: None,
        namespace: format!("c{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
        application_name: "tidings-conformance".to_owned(),
        max_connections: 6,
        statement_timeout: Duration::from_secs(10),
        stream: StreamOptions {
            heartbeat_interval: Duration::from_millis(500),
            standby_poll: Duration::from_millis(100),
            ..StreamOptions::default()
        },
        clock: Arc::new(WallClock),
        entropy: Arc::new(SystemEntropy),
        meter: NoopMeterProvider::new().meter("conformance"),
    }
}

struct PostgresFixture {
    options: Options,
    /// Past the proxy.
    direct: String,
    proxy: Proxy,
    stores: Lock<Vec<Store>>,
}

impl PostgresFixture {
    /// As another program has it.
    async fn foreign(&self) -> PgConnection {
        connect(&self.direct).await
    }

    fn stores(&self) -> std::sync::MutexGuard<'_, Vec<Store>> {
        self.stores.lock().expect("no test panics with it")
    }
}

async fn connect(url: &str) -> PgConnection {
    let url = url.parse::<PgConnectOptions>().expect("a URL");
    url.connect().await.expect("another connection")
}

/// Ends whoever reads the slot, and drops it: as if the server had lost it.
async fn drop_slot(url: &str, slot: &str) {
    let mut foreign = connect(url).await;
    let limit = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let dropped = sqlx::query(
            "WITH ended AS MATERIALIZED (
                SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots
                WHERE slot_name = $1 AND active_pid IS NOT NULL
            ), counted AS MATERIALIZED (SELECT count(*) AS count FROM ended)
            SELECT count, pg_drop_replication_slot(slot_name) FROM counted, pg_replication_slots
            WHERE slot_name = $1",
        )
        .bind(slot.to_owned())
        .fetch_all(&mut foreign)
        .await;
        match dropped {
            Ok(_) => return,
            Err(error) => assert!(tokio::time::Instant::now() < limit, "the slot stays: {error}"),
        }
    }
}

#[async_trait]
impl Fixture for PostgresFixture {
    async fn open(&self) -> Ports {
        let store = Store::new(self.options.clone()).expect("options");
        let ports = Ports {
            items: Some(store.items()),
            changes: Some(store.changes()),
            catalog: Some(store.catalog()),
            subscriptions: Some(store.subscriptions()),
            deliveries: Some(store.deliveries()),
            dead_letters: Some(store.dead_letters()),
            ..Ports::default()
        };
        self.stores().push(store);
        ports
    }

    async fn elapse(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn disturb(&self, what: Disturbance) {
        match what {
            Disturbance::Restart => {
                self.stores().clear();
                self.proxy.close_connections().await;
            }
            Disturbance::Unavailable => self.proxy.cut().await,
            Disturbance::Gap => drop_slot(&self.direct, &self.options.namespace).await,
            other => unreachable!("{other:?} is excluded"),
        }
    }

    async fn mend(&self) {
        self.proxy.heal().await;
    }

    async fn open_insert(&self, item: NewItem) -> Box<dyn OpenInsert> {
        let mut foreign = self.foreign().await;
        let message = item.message;
        sqlx::query("BEGIN").execute(&mut foreign).await.expect("begin");
        sqlx::query(
            "INSERT INTO items (id, topic, message, subject, content_type, attributes, accepted_at, stored_at)
            VALUES ($1, $2, $3, $4, $5, $6::json, $7::timestamptz, $8::timestamptz)",
        )
        .bind(message.id.0)
        .bind(message.topic.as_str().to_owned())
        .bind(message.text.as_str().to_owned())
        .bind(message.subject.as_ref().map(|subject: &Subject| subject.as_str().to_owned()))
        .bind(message.content_type.clone())
        .bind(message.attributes.to_json_text())
        .bind(message.accepted_at.to_string())
        .bind(item.stored_at.to_string())
        .execute(&mut foreign)
        .await
        .expect("insert");
        Box::new(ForeignInsert(foreign))
    }

    async fn mails(&self) -> Vec<SentMail> {
        unreachable!("no port of this adapter mails")
    }
}

/// Slots are the whole server's and few: each goes with its installation.
impl Drop for PostgresFixture {
    fn drop(&mut self) {
        self.stores().clear();
        let (url, slot) = (self.direct.clone(), self.options.namespace.clone());
        let tidy = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(drop_slot(&url, &slot));
        });
        tidy.join().expect("the slot goes");
    }
}

struct ForeignInsert(PgConnection);

#[async_trait]
impl OpenInsert for ForeignInsert {
    async fn commit(mut self: Box<Self>) {
        sqlx::query("COMMIT").execute(&mut self.0).await.expect("commit");
        self.0.close().await.expect("close");
    }

    async fn roll_back(mut self: Box<Self>) {
        sqlx::query("ROLLBACK").execute(&mut self.0).await.expect("roll back");
        self.0.close().await.expect("close");
    }
}

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system gives randomness");
    }
}

fn main() -> ExitCode {
    tidings_conformance::main_of(vec![("with_postgres", Arc::new(PostgresAdapter))]).exit_code()
}
