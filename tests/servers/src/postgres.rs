//! PostgreSQL with logical replication, private to a test.

mod cluster;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::OnceCell;

use crate::{authority::Certificate, program::beside};
use cluster::Cluster;

/// How a server is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, everything is written, walsenders may finish.
    Fast,
    /// At once, as in a crash: the next start recovers.
    Immediate,
}

/// How a server differs from [`Postgres::start`]'s.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    /// Speaks TLS too, with this.
    pub tls: Option<Certificate>,
    /// Refuses sessions without TLS.
    pub tls_only: bool,
    /// Asks for this password (SCRAM); without it whoever connects is trusted. Only letters and digits.
    pub password: Option<String>,
    /// Lines of `postgresql.conf`: name and value; the last of a name counts.
    pub settings: Vec<(String, String)>,
}

/// A server. It ends, and its data goes, when it is dropped or when this process dies.
///
/// `wal_level = logical`, `fsync` is on, 200 sessions, 50 slots. The user is `postgres`, a superuser.
pub struct Postgres {
    cluster: Arc<Cluster>,
}

/// Numbers the databases.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl Postgres {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::start_with(PostgresOptions::default()).await
    }

    /// Starts one on a free port.
    pub async fn start_with(options: PostgresOptions) -> Self {
        let cluster = beside(move || {
            let cluster = Cluster::new(options);
            cluster.start();
            cluster
        })
        .await;
        Self { cluster: Arc::new(cluster) }
    }

    /// The one that the tests of this process share: whoever asks first starts it. Make a database of your own in it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Makes an empty database; answers its URL.
    pub async fn database(&self) -> String {
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        self.psql("postgres", &format!("create database {name}")).await;
        self.url(&name)
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        self.cluster.url(self.addr(), database)
    }

    /// The URL of a database by way of `address`, such as a proxy's.
    pub fn url_by(&self, address: SocketAddr, database: &str) -> String {
        self.cluster.url(address, database)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.cluster.address()
    }

    /// Runs statements, each in its own transaction; answers rows as lines with `|` between the columns. Panics on an error.
    pub async fn psql(&self, database: &str, sql: &str) -> String {
        let (cluster, url, sql) = (Arc::clone(&self.cluster), self.url(database), sql.to_owned());
        beside(move || cluster.psql(&url, &sql)).await
    }

    /// Stops it; returns when it is down.
    pub async fn stop(&self, mode: StopMode) {
        self.beside(move |cluster| cluster.stop(mode)).await;
    }

    /// Kills it and all its processes (`kill -9`).
    pub async fn kill(&self) {
        self.beside(Cluster::kill).await;
    }

    /// Starts it again with the same data on the same port; returns when it answers.
    pub async fn start_again(&self) {
        self.beside(Cluster::start).await;
    }

    /// Stops all its processes where they stand: connections stay and nothing answers.
    pub fn freeze(&self) {
        self.cluster.signal("STOP");
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.cluster.signal("CONT");
    }

    /// What it printed last.
    pub fn log(&self) -> String {
        self.cluster.printed()
    }

    async fn beside(&self, work: impl FnOnce(&Cluster) + Send + 'static) {
        let cluster = Arc::clone(&self.cluster);
        beside(move || work(&cluster)).await;
    }
}
