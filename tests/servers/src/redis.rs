//! Redis, private to a test. It keeps nothing on disk: a stop or a kill loses all, as may happen to it at any time.

mod given;
mod session;
mod store;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::OnceCell;

use crate::{Source, authority::Certificate, program::beside};
use given::Given;
use store::Store;

/// How many databases a server of ours has.
const DATABASES: u32 = 4096;

/// How a server differs from [`Redis::start`]'s.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    /// Speaks TLS with this, and nothing else (`rediss://`).
    pub tls: Option<Certificate>,
    /// Asks for this password. Only letters and digits.
    pub password: Option<String>,
}

/// A server. It ends when it is dropped or when this process dies.
pub struct Redis {
    home: Home,
}

enum Home {
    /// Started by us; the database that is given away next.
    Ours(Arc<Store>, AtomicU32),
    /// Named by `REDIS_URL`.
    Theirs(Box<Given>),
}

impl Redis {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::start_with(RedisOptions::default()).await
    }

    /// Starts one on a free port.
    pub async fn start_with(options: RedisOptions) -> Self {
        let store = beside(move || {
            let store = Store::new(options);
            store.start();
            store
        })
        .await;
        Self { home: Home::Ours(Arc::new(store), AtomicU32::new(1)) }
    }

    /// The one that the tests of this process share: the server that `REDIS_URL` names, else one that whoever asks first starts. Take a
    /// database of your own in it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Redis> = OnceCell::const_new();
        let make = async || match given::url() {
            Some(url) => Self { home: Home::Theirs(Box::new(beside(move || Given::new(&url)).await)) },
            None => Self::start().await,
        };
        SHARED.get_or_init(make).await
    }

    /// The URL of an empty database that nobody else was given.
    pub fn database(&self) -> String {
        let number = match &self.home {
            Home::Ours(_, next) => {
                let number = next.fetch_add(1, Ordering::Relaxed);
                assert!(number < DATABASES, "all {DATABASES} databases are given away");
                number
            }
            Home::Theirs(given) => given.database(),
        };
        self.url(number)
    }

    /// The URL of a database.
    pub fn url(&self, number: u32) -> String {
        match &self.home {
            Home::Ours(store, _) => store.url(number),
            Home::Theirs(given) => given.url(number),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        match &self.home {
            Home::Ours(store, _) => store.address(),
            Home::Theirs(given) => given.address(),
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> Source {
        match &self.home {
            Home::Ours(store, _) => store.server().source(),
            Home::Theirs(_) => Source::Address(given::VARIABLE),
        }
    }

    /// What it says that it is, such as `8.0.2`. Only of one that a test started.
    pub async fn version(&self) -> String {
        let store = Arc::clone(self.store());
        beside(move || store.version()).await
    }

    /// Empties all databases.
    pub async fn flush(&self) {
        self.beside(Store::flush).await;
    }

    /// Stops it; returns when it is down.
    pub async fn stop(&self) {
        self.beside(|store| store.server().stop("TERM")).await;
    }

    /// Kills it (`kill -9`).
    pub async fn kill(&self) {
        self.beside(|store| store.server().kill()).await;
    }

    /// Starts it again, empty, on the same port; returns when it answers.
    pub async fn start_again(&self) {
        self.beside(Store::start).await;
    }

    /// Stops it where it stands: connections stay and nothing answers.
    pub fn freeze(&self) {
        self.store().server().freeze();
    }

    /// Lets it go on.
    pub fn thaw(&self) {
        self.store().server().thaw();
    }

    fn store(&self) -> &Arc<Store> {
        match &self.home {
            Home::Ours(store, _) => store,
            Home::Theirs(_) => {
                panic!("the server at REDIS_URL is not ours to end or to empty: use Redis::start")
            }
        }
    }

    async fn beside(&self, work: impl FnOnce(&Store) + Send + 'static) {
        let store = Arc::clone(self.store());
        beside(move || work(&store)).await;
    }
}
