//! Installations, and values to write.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use opentelemetry::metrics::{MeterProvider as _, noop::NoopMeterProvider};
use tidings_domain::{
    attributes::Attributes,
    id::MessageId,
    message::{Message, TEXT_PLAIN},
    ports::{Clock, Entropy, NewItem},
    text::Text,
    time::Timestamp,
    topic::TopicName,
    trace_context::TraceContext,
};
use tidings_postgres::{Options, Store, StreamOptions};
use tidings_servers::postgres::Postgres;
use uuid::Uuid;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// What a test needs for a store at `url`.
pub(crate) fn options(url: &str) -> Options {
    Options {
        url: url.to_owned(),
        ca_file: None,
        namespace: format!("r{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)),
        application_name: "tidings-records".to_owned(),
        max_connections: 8,
        statement_timeout: Duration::from_secs(10),
        stream: StreamOptions::default(),
        clock: Arc::new(WallClock),
        entropy: Arc::new(SystemEntropy),
        meter: NoopMeterProvider::new().meter("test"),
    }
}

/// An installation in a database of its own: its slot goes with it.
pub(crate) struct Rig {
    pub(crate) server: &'static Postgres,
    pub(crate) database: String,
    pub(crate) options: Options,
    pub(crate) store: Store,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        let server = Postgres::shared().await;
        let url = server.database().await;
        let options = options(&url);
        let store = provisioned(&options).await;
        Self { server, database: database(&url), options, store }
    }

    /// Runs statements as another program does.
    pub(crate) async fn sql(&self, sql: &str) -> String {
        self.server.psql(&self.database, sql).await
    }

    /// The same, for statements that may be refused.
    pub(crate) async fn try_sql(&self, sql: &str) -> Result<String, String> {
        self.server.try_psql(&self.database, sql).await
    }

    /// One more process on the same data.
    pub(crate) fn another(&self) -> Store {
        Store::new(self.options.clone()).unwrap()
    }

    pub(crate) async fn end(self) {
        self.store.close().await;
        drop_slot(self.server, &self.database, &self.options.namespace).await;
    }
}

/// The name in a URL.
pub(crate) fn database(url: &str) -> String {
    url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned()
}

pub(crate) async fn provisioned(options: &Options) -> Store {
    let store = Store::new(options.clone()).unwrap();
    store.provision().await.unwrap();
    store.complete().await.unwrap();
    store
}

/// Slots are the whole server's, and few.
pub(crate) async fn drop_slot(server: &Postgres, database: &str, slot: &str) {
    let sql = format!(
        "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = '{slot}'"
    );
    server.psql(database, &sql).await;
}

pub(crate) fn message_id(number: u128) -> MessageId {
    MessageId(Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number))
}

pub(crate) fn item(number: u128, text: &str) -> NewItem {
    NewItem {
        message: Message {
            id: message_id(number),
            topic: TopicName::messages(),
            text: Text::parse(text).unwrap(),
            subject: None,
            content_type: TEXT_PLAIN.to_owned(),
            attributes: Attributes::default(),
            accepted_at: at(0),
            trace: TraceContext::default(),
        },
        stored_at: at(1),
    }
}

/// Seconds after some time.
pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000).plus(Duration::from_secs(seconds))
}

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Timestamp::from_millis(i64::try_from(since.unwrap().as_millis()).unwrap())
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).unwrap();
    }
}
