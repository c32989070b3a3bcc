//! PostgreSQL with logical replication, private to a test.

mod cluster;
mod given;

use std::{
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::OnceCell;

use crate::{
    Source,
    authority::Certificate,
    program::{self, beside},
};
use cluster::Cluster;
use given::Given;

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
    /// Keeps the data on a disk of its own with so many bytes, at least 128 MiB, that [`Postgres::fill`] fills. Only root can make one:
    /// see [`Postgres::may_have_disk`].
    pub disk_bytes: Option<u64>,
}

/// A server. It ends, and its data goes, when it is dropped or when this process dies.
///
/// `wal_level = logical`, `fsync` is on, 200 sessions, 50 slots. The user is `postgres`, a superuser.
pub struct Postgres {
    home: Home,
}

enum Home {
    /// Started by us.
    Ours(Arc<Cluster>),
    /// Named by `DATABASE_URL`.
    Theirs(Arc<Given>),
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
        Self { home: Home::Ours(Arc::new(cluster)) }
    }

    /// The one that the tests of this process share: the server that `DATABASE_URL` names, else one that whoever asks first starts.
    /// Make a database of your own in it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        let make = async || match given::url() {
            Some(url) => Self { home: Home::Theirs(Arc::new(beside(move || Given::new(url)).await)) },
            None => Self::start().await,
        };
        SHARED.get_or_init(make).await
    }

    /// Whether [`PostgresOptions::disk_bytes`] can be had here.
    pub async fn may_have_disk() -> bool {
        beside(Cluster::may_have_disk).await
    }

    /// Makes an empty database; answers its URL.
    pub async fn database(&self) -> String {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = match &self.home {
            Home::Ours(_) => format!("test_{number}"),
            Home::Theirs(given) => format!("{}{number}", given.prefix()),
        };
        self.psql("postgres", &format!("create database {name}")).await;
        self.url(&name)
    }

    /// The URL of a database.
    pub fn url(&self, database: &str) -> String {
        match &self.home {
            Home::Ours(cluster) => cluster.url(cluster.address(), database),
            Home::Theirs(given) => given.url(database),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        match &self.home {
            Home::Ours(cluster) => cluster.address(),
            Home::Theirs(given) => given.address(),
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> Source {
        match &self.home {
            Home::Ours(cluster) => cluster.server().source(),
            Home::Theirs(_) => Source::Address(given::VARIABLE),
        }
    }

    /// What it says that it is, such as `17.5`; distributors add a word to it.
    pub async fn version(&self) -> String {
        self.psql("postgres", "show server_version").await
    }

    /// Runs statements, each in its own transaction; answers rows as lines with `|` between the columns. Panics on an error.
    pub async fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).await.unwrap_or_else(|complaint| panic!("{complaint}"))
    }

    /// The same, for statements that may fail.
    ///
    /// # Errors
    /// What psql complained of at the first that failed; those before it hold.
    pub async fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let (database, sql) = (database.to_owned(), sql.to_owned());
        match &self.home {
            Home::Ours(cluster) => {
                let cluster = Arc::clone(cluster);
                beside(move || cluster.psql(&database, &sql)).await
            }
            Home::Theirs(given) => {
                let given = Arc::clone(given);
                beside(move || given.psql(&database, &sql)).await
            }
        }
    }

    /// Stops it; returns when it is down.
    pub async fn stop(&self, mode: StopMode) {
        self.beside(move |cluster| cluster.stop(mode)).await;
    }

    /// Kills it and all its processes (`kill -9`).
    pub async fn kill(&self) {
        self.beside(|cluster| cluster.server().kill()).await;
    }

    /// Starts it again with the same data on the same port; returns when it answers.
    pub async fn start_again(&self) {
        self.beside(Cluster::start).await;
    }

    /// Stops all its processes where they stand: connections stay and nothing answers.
    pub fn freeze(&self) {
        self.cluster().server().freeze();
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.cluster().server().thaw();
    }

    /// What it printed last.
    pub fn log(&self) -> String {
        self.cluster().server().printed()
    }

    /// Fills its disk, see [`PostgresOptions::disk_bytes`].
    pub async fn fill(&self) {
        self.beside(Cluster::fill).await;
    }

    /// Gives the room back that [`Postgres::fill`] took.
    pub async fn empty(&self) {
        self.beside(Cluster::empty).await;
    }

    fn cluster(&self) -> &Arc<Cluster> {
        match &self.home {
            Home::Ours(cluster) => cluster,
            Home::Theirs(_) => panic!("the server at DATABASE_URL is not ours to end: use Postgres::start"),
        }
    }

    async fn beside(&self, work: impl FnOnce(&Cluster) + Send + 'static) {
        let cluster = Arc::clone(self.cluster());
        beside(move || work(&cluster)).await;
    }
}

/// Runs statements with `program`, which is psql.
fn psql(mut program: Command, url: &str, sql: &str) -> Result<String, String> {
    program.args(["-qAtX", "-v", "ON_ERROR_STOP=1", "-d", url, "-f", "-"]);
    program::without_variables(&mut program, &["PG"]);
    program::try_run(&mut program, sql).map(|printed| printed.trim_end().to_owned())
}
