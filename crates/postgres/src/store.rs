//! Opening, provisioning and closing.

use std::sync::Arc;

use sqlx::{ConnectOptions as _, Row as _, postgres::PgConnection};
use tidings_domain::{
    Error, Result,
    ports::{
        Catalog, Changes, DeadLetters, Deliveries, Dependency, INSTALLATION_VERSION, Items, Subscriptions,
    },
    topic::MESSAGES,
};

pub(crate) use crate::shared::Shared;
use crate::{
    catalog::PostgresCatalog,
    changes::{self, RecoveredSlot},
    connect,
    dead_letters::{PostgresDeadLetters, PutLetters},
    deliveries::{Extend, PlanPages, PostgresDeliveries, RecordSending, Settle},
    fault::{self, Call},
    group::Lane,
    items::{Insert, PostgresItems},
    options::Options,
    pool::Pool,
    rows::Time,
    schema,
    subscriptions::{ActOn, PostgresSubscriptions, Wish},
};

/// One database. Its ports may outlive it; they answer *unavailable* once it is closed.
pub struct Store {
    pub(crate) shared: Arc<Shared>,
    lanes: Lanes,
}

/// What is written in groups: one lane for each kind, shared by all ports of a store.
struct Lanes {
    inserts: Arc<Lane<Insert>>,
    wishes: Arc<Lane<Wish>>,
    acts: Arc<Lane<ActOn>>,
    plans: Arc<Lane<PlanPages>>,
    sendings: Arc<Lane<RecordSending>>,
    extends: Arc<Lane<Extend>>,
    settles: Arc<Lane<Settle>>,
    letters: Arc<Lane<PutLetters>>,
}

impl Lanes {
    fn new(shared: &Arc<Shared>) -> Self {
        Self {
            inserts: Lane::new(shared),
            wishes: Lane::new(shared),
            acts: Lane::new(shared),
            plans: Lane::new(shared),
            sendings: Lane::new(shared),
            extends: Lane::new(shared),
            settles: Lane::new(shared),
            letters: Lane::new(shared),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

const SECRET: &str =
    "INSERT INTO installation (namespace, secret, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

const NAMESPACE: &str = "SELECT namespace, version FROM installation";

const TOPIC: &str = "INSERT INTO topics (name, created_at) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";

const COMPLETE: &str = "UPDATE installation SET version = greatest(version, $1) RETURNING version";

impl Store {
    /// Reads the options. Connects when it is first asked for something, and again whenever it has to: the server may be
    /// down. Needs a tokio runtime.
    ///
    /// *Misconfigured*: the URL or a file that it names cannot be read; the context never holds the password.
    pub fn new(options: Options) -> Result<Self> {
        let plain = connect::plain(&options)?;
        let pool = Pool::new(connect::pooled(&options)?, options.max_connections, options.statement_timeout);
        let shared = Arc::new(Shared::new(pool, plain, options));
        let lanes = Lanes::new(&shared);
        Ok(Self { shared, lanes })
    }

    /// Makes what is missing of schema, publication, slot and secret, in this order, each step for itself, so that one that
    /// was cut off is gone through again. The version row, which every service waits for, comes last and apart
    /// ([`Store::complete`]), once the bus stands too.
    ///
    /// A slot is made where there has never been one; one that is gone from an installation that had it is *gap*
    /// (`tidings recover`). *Misconfigured*: `wal_level` is not `logical`, a right is missing, no slot is free, or what
    /// stands there is another program's.
    pub async fn provision(&self) -> Result<()> {
        // Beside the pool: a migration of a large table takes longer than any statement of a service.
        let mut connection = self.apart("connect to provision").await?;
        let provisioned = self.provision_by(&mut connection).await;
        schema::leave(connection).await;
        self.shared.note(provisioned)
    }

    async fn provision_by(&self, connection: &mut PgConnection) -> Result<()> {
        schema::make_schema(connection).await?;
        schema::lock(connection, &self.shared.options.namespace).await?;
        schema::migrate(connection).await?;
        self.refuse_others(connection).await?;
        changes::provision::make_publication(&self.shared).await?;
        changes::provision::make_slot(&self.shared).await?;
        let failed = |error| fault::of(error, Call::Write, "write the secret");
        let mut secret = vec![0; 32];
        self.shared.options.entropy.fill(&mut secret);
        let now = Time(self.shared.options.clock.now());
        sqlx::query(SECRET)
            .bind(self.shared.options.namespace.clone())
            .bind(secret)
            .bind(now)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        sqlx::query(TOPIC).bind(MESSAGES).bind(now).execute(&mut *connection).await.map_err(failed)?;
        Ok(())
    }

    /// The schema may be another stack's. Answers the version that is written in it, where one is.
    async fn refuse_others(&self, connection: &mut PgConnection) -> Result<Option<i32>> {
        let what = "read the installation";
        let failed = |error| fault::of(error, Call::Read, what);
        let row = sqlx::query(NAMESPACE).fetch_optional(connection).await.map_err(failed)?;
        let Some(row) = row else { return Ok(None) };
        same_namespace(row.try_get(0).map_err(failed)?, &self.shared.options.namespace)?;
        let version: Option<i32> = row.try_get(1).map_err(failed)?;
        match version.is_some_and(|version| u32::try_from(version).is_ok_and(|is| is > INSTALLATION_VERSION))
        {
            true => {
                Err(Error::misconfigured("the database was provisioned by a newer program: start that one"))
            }
            false => Ok(version),
        }
    }

    /// Writes the version row. Answers the version.
    pub async fn complete(&self) -> Result<u32> {
        let what = "write the version";
        let ours = i32::try_from(INSTALLATION_VERSION).unwrap_or(i32::MAX);
        let rows = self.shared.write(what, || sqlx::query(COMPLETE).bind(ours)).await?;
        let row = rows.first().ok_or_else(crate::shared::not_provisioned)?;
        let version = fault::readable(row.try_get::<i32, _>(0).ok(), "version")?;
        fault::readable(u32::try_from(version).ok(), "version")
    }

    /// What is missing of what provisioning makes, by name, empty where nothing is. Writes nothing.
    pub async fn check(&self) -> Result<Vec<String>> {
        let mut connection = self.apart("connect to look at the installation").await?;
        let missing = self.check_by(&mut connection).await;
        schema::leave(connection).await;
        self.shared.note(missing)
    }

    async fn check_by(&self, connection: &mut PgConnection) -> Result<Vec<String>> {
        let mut missing = schema::missing(connection).await?;
        if missing.is_empty() {
            let failed = |error| fault::of(error, Call::Read, "read the installation");
            let version = self.refuse_others(connection).await?;
            let any = sqlx::query(NAMESPACE).fetch_optional(connection).await.map_err(failed)?.is_some();
            missing.extend(changes::provision::check(&self.shared).await?);
            if !any {
                missing.push("secret".to_owned());
            }
            if version.is_none_or(|version| u32::try_from(version) != Ok(INSTALLATION_VERSION)) {
                missing.push("version row".to_owned());
            }
        }
        Ok(missing)
    }

    /// Makes the slot anew after a gap, where it is missing, invalidated or of another cluster: a person's act. None where
    /// there is no gap. What was committed before it and never notified has to be published again by whoever calls this
    /// (promise 7). *Conflict*: there is a gap and somebody still reads the slot: nothing was done.
    pub async fn recover_slot(&self) -> Result<Option<RecoveredSlot>> {
        let mut connection = self.apart("connect to recover the slot").await?;
        let recovered = async {
            schema::lock(&mut connection, &self.shared.options.namespace).await?;
            changes::provision::recover(&self.shared).await
        }
        .await;
        schema::leave(connection).await;
        self.shared.note(recovered)
    }

    /// A session of its own, without a limit for statements.
    async fn apart(&self, what: &str) -> Result<PgConnection> {
        let limit = self.shared.options.statement_timeout;
        let connected = tokio::time::timeout(limit, self.shared.connect.connect()).await;
        let connected = connected.unwrap_or_else(|_elapsed| Err(fault::no_answer()));
        self.shared.note(connected.map_err(|error| fault::of(error, Call::Connect, what)))
    }

    /// Ends its connections. Afterwards every port answers *unavailable*.
    pub async fn close(&self) {
        self.shared.stream.close().await;
        self.shared.pool.close().await;
    }

    /// The table `items`.
    pub fn items(&self) -> Arc<dyn Items> {
        Arc::new(PostgresItems { shared: Arc::clone(&self.shared), inserts: Arc::clone(&self.lanes.inserts) })
    }

    /// The table stream.
    pub fn changes(&self) -> Arc<dyn Changes> {
        Arc::new(changes::PostgresChanges(Arc::clone(&self.shared)))
    }

    /// Topics and keys.
    pub fn catalog(&self) -> Arc<dyn Catalog> {
        Arc::new(PostgresCatalog(Arc::clone(&self.shared)))
    }

    /// Who is subscribed.
    pub fn subscriptions(&self) -> Arc<dyn Subscriptions> {
        Arc::new(PostgresSubscriptions {
            shared: Arc::clone(&self.shared),
            wishes: Arc::clone(&self.lanes.wishes),
            acts: Arc::clone(&self.lanes.acts),
        })
    }

    /// Notifications and deliveries.
    pub fn deliveries(&self) -> Arc<dyn Deliveries> {
        Arc::new(PostgresDeliveries {
            shared: Arc::clone(&self.shared),
            plans: Arc::clone(&self.lanes.plans),
            sendings: Arc::clone(&self.lanes.sendings),
            extends: Arc::clone(&self.lanes.extends),
            settles: Arc::clone(&self.lanes.settles),
        })
    }

    /// What cannot go on.
    pub fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        Arc::new(PostgresDeadLetters {
            shared: Arc::clone(&self.shared),
            puts: Arc::clone(&self.lanes.letters),
        })
    }

    /// `postgres`: what the last statements said.
    pub fn dependency(&self) -> Arc<dyn Dependency> {
        Arc::<crate::dependency::Health>::clone(&self.shared.health)
    }

    /// `replication`: what the table stream last saw: up, standing by, or the gap by its name.
    pub fn stream_dependency(&self) -> Arc<dyn Dependency> {
        Arc::clone(&self.shared.stream.health) as Arc<dyn Dependency>
    }
}

/// *Misconfigured* where the schema is another stack's.
pub(crate) fn same_namespace(there: &str, ours: &str) -> Result<()> {
    match there == ours {
        true => Ok(()),
        false => Err(Error::misconfigured(format!(
            "the schema belongs to the namespace {there:?}, this is {ours:?}: give this one a schema of its own by the URL's search_path"
        ))),
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 4] = [SECRET, NAMESPACE, TOPIC, COMPLETE];
