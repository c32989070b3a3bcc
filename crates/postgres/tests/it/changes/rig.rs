//! An installation with a namespace of its own, and what tests do to its stream.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use opentelemetry::metrics::{Meter, MeterProvider as _, noop::NoopMeterProvider};
use tidings_domain::{
    Error,
    ports::{Captured, ChangeStream, Clock, DependencyState, Entropy},
    time::Timestamp,
};
use tidings_postgres::{Options, Store, StreamOptions};
use tidings_servers::postgres::Postgres;

pub(crate) const SOON: Duration = Duration::from_secs(20);
pub(crate) const QUIET: Duration = Duration::from_millis(400);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace that no other installation on any server has.
pub(crate) fn namespace() -> String {
    format!("s{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// One installation in a database of its own.
pub(crate) struct Rig {
    pub(crate) database: String,
    pub(crate) url: String,
    pub(crate) namespace: String,
    pub(crate) options: StreamOptions,
    pub(crate) meter: Meter,
}

impl Rig {
    /// Provisioned, with quick heartbeats.
    pub(crate) async fn on(server: &Postgres) -> Self {
        let rig = Self::bare(server).await;
        let store = rig.store();
        store.provision().await.expect("provision");
        store.complete().await.expect("complete");
        store.close().await;
        rig
    }

    /// Not provisioned.
    pub(crate) async fn bare(server: &Postgres) -> Self {
        let url = server.database().await;
        let database = url.rsplit('/').next().unwrap().split('?').next().unwrap().to_owned();
        let options = StreamOptions {
            heartbeat_interval: Duration::from_millis(300),
            standby_poll: Duration::from_millis(200),
            ..StreamOptions::default()
        };
        let meter = NoopMeterProvider::new().meter("test");
        Self { database, url, namespace: namespace(), options, meter }
    }

    pub(crate) fn store(&self) -> Store {
        self.store_at(&self.url)
    }

    /// Through another address, such as a proxy's.
    pub(crate) fn store_at(&self, url: &str) -> Store {
        self.store_with(url, None)
    }

    /// Trusting this file.
    pub(crate) fn store_with(&self, url: &str, ca_file: Option<std::path::PathBuf>) -> Store {
        Store::new(Options {
            url: url.to_owned(),
            ca_file,
            namespace: self.namespace.clone(),
            application_name: "tidings-test".to_owned(),
            max_connections: 4,
            statement_timeout: Duration::from_secs(5),
            stream: self.options.clone(),
            clock: Arc::new(WallClock),
            entropy: Arc::new(SystemEntropy),
            meter: self.meter.clone(),
        })
        .expect("options")
    }

    /// Runs statements as another program does.
    pub(crate) async fn sql(&self, server: &Postgres, sql: &str) -> String {
        server.psql(&self.database, sql).await
    }

    /// Inserts rows whose texts are their numbers, in one transaction.
    pub(crate) async fn insert(&self, server: &Postgres, numbers: std::ops::RangeInclusive<u32>) {
        let (first, last) = (numbers.start(), numbers.end());
        let sql = format!(
            "insert into items (topic, message) select 'messages', n::text from generate_series({first}, {last}) n"
        );
        self.sql(server, &sql).await;
    }

    /// A column of `pg_replication_slots`.
    pub(crate) async fn slot(&self, server: &Postgres, column: &str) -> String {
        let sql = format!("select {column} from pg_replication_slots where slot_name = '{}'", self.namespace);
        server.psql("postgres", &sql).await
    }
}

/// The texts of changes.
pub(crate) fn texts(captured: &[Captured]) -> Vec<String> {
    let text = |captured: &Captured| match &captured.content {
        Ok(change) => change.item.message.text.as_str().to_owned(),
        Err(row) => format!("unreadable: {}", row.detail),
    };
    captured.iter().map(text).collect()
}

pub(crate) fn numbers(numbers: std::ops::RangeInclusive<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

/// Reads until `count` have come.
pub(crate) async fn take(stream: &mut dyn ChangeStream, count: usize) -> Vec<Captured> {
    let mut all = Vec::new();
    while all.len() < count {
        let captured = stream.next(count - all.len(), SOON).await.expect("next");
        assert!(!captured.is_empty(), "{} of {count} came within {SOON:?}", all.len());
        all.extend(captured);
    }
    all
}

pub(crate) async fn nothing_comes(stream: &mut dyn ChangeStream) {
    let captured = stream.next(10, QUIET).await.expect("next");
    assert!(captured.is_empty(), "nothing was to come, but {:?}", texts(&captured));
}

/// Reads until the stream ends with an error.
pub(crate) async fn error(stream: &mut dyn ChangeStream) -> Error {
    let reading = async {
        loop {
            if let Err(error) = stream.next(100, SOON).await {
                return error;
            }
        }
    };
    tokio::time::timeout(SOON, reading).await.expect("the stream ends")
}

/// Opens, over outages.
pub(crate) async fn open(store: &Store) -> Box<dyn ChangeStream> {
    let opening = async {
        loop {
            match store.changes().open().await {
                Ok(stream) => return stream,
                Err(error) if error.is_outage() => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("open: {}", error.chain()),
            }
        }
    };
    tokio::time::timeout(SOON, opening).await.expect("the stream opens")
}

/// What opening is refused with.
pub(crate) async fn refusal(store: &Store) -> Error {
    let opened =
        tokio::time::timeout(SOON, store.changes().open()).await.expect("open does not wait for ever");
    match opened {
        Err(error) => error,
        Ok(_) => panic!("the stream was opened"),
    }
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("{what}: not within {SOON:?}"));
}

/// Waits until the stream's dependency says so.
pub(crate) async fn state(store: &Store, what: &str, holds: impl Fn(&DependencyState) -> bool) {
    let dependency = store.stream_dependency();
    until(what, async || holds(&dependency.state())).await;
}

pub(crate) struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system gives randomness");
    }
}
