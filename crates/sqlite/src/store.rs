//! Opening and closing the file.

use std::{
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use sqlx::{ConnectOptions, Connection as _, SqliteConnection};
use tidings_domain::{
    Error, Result,
    ports::{
        Bus, Catalog, Changes, Clock, DeadLetters, Deliveries, Dependency, Entropy, INSTALLATION_VERSION,
        Items, Mail, Mailbox, Subscriptions, Topology,
    },
    topic::MESSAGES,
};

use crate::{
    connection, fault,
    group::Session,
    lock, schema,
    shared::{Handle, Shared},
    topology,
    writer::{self, Writer},
};

/// The database's name in the data folder.
pub const DATABASE_FILE: &str = "tidings.db";

/// The lock's name in the data folder.
pub const LOCK_FILE: &str = "tidings.lock";

/// What a store needs.
#[derive(Clone)]
pub struct Options {
    /// The data folder; made where there is none.
    pub directory: PathBuf,
    /// What prefixes the names of topics on the bus.
    pub namespace: String,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Where the installation's secret comes from.
    pub entropy: Arc<dyn Entropy>,
}

/// The open file. Its ports may outlive it; they answer *unavailable* once it is closed.
pub struct Store {
    handle: Arc<Handle>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

impl Store {
    /// Opens the file in the data folder and provisions it: the schema, the secret, the topic `messages` and the topology of
    /// the queues and of that topic. Needs a tokio runtime, in which the writer's task lives.
    ///
    /// *Misconfigured*: another server holds the folder, it cannot be written, the file is damaged or of a newer program;
    /// the context says which and the mend. *Unavailable*: the disk is full or fails, or another program holds the file.
    pub async fn open(options: Options) -> Result<Self> {
        Self::open_with(options, None).await
    }

    /// The installation's version in the data folder `directory`, whose schema is this program's. Writes nothing, and works
    /// beside a running server.
    ///
    /// *Misconfigured*: there is nothing, or not all that [`Store::open`] makes, or it is of another program.
    pub async fn check(directory: &Path) -> Result<u32> {
        let file = directory.join(DATABASE_FILE);
        let opening = format!("look at {}", file.display());
        let failed = |error| fault::opening(error, &opening);
        let mut connection = connection::looking(&file).connect().await.map_err(failed)?;
        schema::compare(&mut connection).await?;
        let version: Option<i64> =
            sqlx::query_scalar(VERSION).fetch_optional(&mut connection).await.map_err(failed)?;
        connection.close().await.map_err(failed)?;
        version.and_then(|version| u32::try_from(version).ok()).ok_or_else(|| {
            Error::misconfigured("the database has a schema and no installation: run `tidings provision`")
        })
    }

    /// `setup` is a statement for the writer's connection.
    async fn open_with(options: Options, setup: Option<&'static str>) -> Result<Self> {
        let folder = &options.directory;
        // Addresses and the secret of all links lie in it: a new folder is its owner's alone.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
            Error::misconfigured(format!(
                "make the data folder {}: give this user the right to, or set TIDINGS_DATA_DIR to another folder",
                folder.display()
            ))
            .with_source(error)
        })?;
        let lock = lock::hold(folder)?;
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
        let file = folder.join(DATABASE_FILE);
        let opening = format!("open {}", file.display());
        let mut connection =
            connection::writing(&file).connect().await.map_err(|error| fault::opening(error, &opening))?;
        schema::migrate(&mut connection).await?;
        let opens =
            provision(&mut connection, &options).await.map_err(|error| fault::opening(error, &opening))?;
        // The names of new files and of a new folder are on disk too before anything is acknowledged. A file system that
        // cannot sync a folder keeps its names in order by itself.
        for folder in [Some(folder.as_path()), parent].into_iter().flatten() {
            let _as_good_as_it_gets = std::fs::File::open(folder).and_then(|folder| folder.sync_all());
        }
        if let Some(setup) = setup {
            let set_up = sqlx::query(setup).execute(&mut connection).await;
            set_up.map_err(|error| fault::opening(error, &opening))?;
        }
        let mut session = Session { connection, numbers: [1; 4], opens };
        writer::number(&mut session).await.map_err(|error| fault::opening(error, &opening))?;
        let readers = connection::readers(&file);
        let shared = Arc::new(Shared::new(options.clock, options.namespace, opens));
        let writer = Writer::begin(session, file, Arc::clone(&shared), lock);
        Ok(Self { handle: Arc::new(Handle { shared, writer, readers }) })
    }

    /// Commits what was handed in before, moves the log into the file and frees the folder. Afterwards every port answers
    /// *unavailable*.
    pub async fn close(self) {
        self.handle.readers.close().await;
        self.handle.writer.close().await;
    }

    /// Publishing and consuming.
    pub fn bus(&self) -> Arc<dyn Bus> {
        Arc::new(crate::bus::SqliteBus(Arc::clone(&self.handle)))
    }

    /// Topics, queues, bindings.
    pub fn topology(&self) -> Arc<dyn Topology> {
        Arc::new(crate::topology::SqliteTopology(Arc::clone(&self.handle)))
    }

    /// The table `items`.
    pub fn items(&self) -> Arc<dyn Items> {
        Arc::new(crate::items::SqliteItems(Arc::clone(&self.handle)))
    }

    /// The table stream.
    pub fn changes(&self) -> Arc<dyn Changes> {
        Arc::new(crate::changes::SqliteChanges(Arc::clone(&self.handle)))
    }

    /// Topics and keys.
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        Arc::new(crate::catalog::SqliteCatalog(Arc::clone(&self.handle)))
    }

    /// Who is subscribed.
    pub fn subscriptions(&self) -> Arc<dyn Subscriptions> {
        Arc::new(crate::subscriptions::SqliteSubscriptions(Arc::clone(&self.handle)))
    }

    /// Notifications and deliveries.
    pub fn deliveries(&self) -> Arc<dyn Deliveries> {
        Arc::new(crate::deliveries::SqliteDeliveries(Arc::clone(&self.handle)))
    }

    /// What cannot go on.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::new(crate::dead_letters::SqliteDeadLetters(Arc::clone(&self.handle)))
    }

    /// The built-in mail catcher's sending side.
    pub fn mail(&self) -> Arc<dyn Mail> {
        Arc::new(crate::mail::MailCatcher(Arc::clone(&self.handle)))
    }

    /// The built-in mail catcher's reading side.
    pub fn mailbox(&self) -> Arc<dyn Mailbox> {
        Arc::new(crate::mailbox::SqliteMailbox(Arc::clone(&self.handle)))
    }

    /// What the last reads and writes said.
    pub fn dependency(&self) -> Arc<dyn Dependency> {
        Arc::<crate::dependency::Health>::clone(&self.handle.shared.health)
    }
}

const VERSION: &str = "SELECT version FROM installation";

const PROVISION: &str = "INSERT INTO installation (one, version, secret, created_at) VALUES (1, ?1, ?2, ?3)
    ON CONFLICT (one) DO UPDATE SET version = max(version, excluded.version), opens = opens + 1 RETURNING opens";

const PROVISION_TOPIC: &str =
    "INSERT INTO topics (name, subject, created_at) VALUES (?1, NULL, ?2) ON CONFLICT (name) DO NOTHING";

/// Writes what provisioning writes, once; answers which start of a server this is.
async fn provision(connection: &mut SqliteConnection, options: &Options) -> sqlx::Result<i64> {
    let now = options.clock.now().as_millis();
    let mut secret = [0; 32];
    options.entropy.fill(&mut secret);
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    let topics = topology::names(&options.namespace, &[tidings_domain::topic::TopicName::messages()]);
    sqlx::query(topology::DECLARE).bind(crate::rows::to_json(&topics)).execute(&mut *connection).await?;
    sqlx::query(PROVISION_TOPIC).bind(MESSAGES).bind(now).execute(&mut *connection).await?;
    let opens = sqlx::query_scalar(PROVISION)
        .bind(i64::from(INSTALLATION_VERSION))
        .bind(secret.to_vec())
        .bind(now)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query("COMMIT").execute(&mut *connection).await?;
    Ok(opens)
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 3] = [VERSION, PROVISION, PROVISION_TOPIC];

#[cfg(test)]
mod tests;
