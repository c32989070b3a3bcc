//! The schema: migrations compiled in, run by `tidings provision` and by nothing else.

use std::{borrow::Cow, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection as _, Row as _, SqlSafeStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
    postgres::PgConnection,
};
use tidings_domain::{Error, Result};

use crate::fault::{self, Call};

/// Every migration: version, name, statements. A test compares this list with `migrations/postgres`.
const MIGRATIONS: [(i64, &str, &str); 6] = [
    (1, "installation", include_str!("../../../migrations/postgres/0001_installation.sql")),
    (2, "items", include_str!("../../../migrations/postgres/0002_items.sql")),
    (3, "deliveries", include_str!("../../../migrations/postgres/0003_deliveries.sql")),
    (4, "dead_letters", include_str!("../../../migrations/postgres/0004_dead_letters.sql")),
    (5, "change_stream", include_str!("../../../migrations/postgres/0005_change_stream.sql")),
    (6, "no_counters", include_str!("../../../migrations/postgres/0006_no_counters.sql")),
];

/// How long provisioning waits for another one of the same installation.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// How often it looks whether that one has ended.
const LOCK_POLL: Duration = Duration::from_millis(200);

const LOCK: &str = "SELECT pg_try_advisory_lock(hashtextextended('tidings ' || $1 || ' ' || coalesce(current_schema(), ''), 0))";

const SEARCH_PATH: &str = "SELECT current_setting('search_path')";

const SCHEMA_STANDS: &str = "SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)";

const MIGRATED: &str = "SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version";

const MIGRATED_AT_ALL: &str = "SELECT to_regclass('_sqlx_migrations') IS NOT NULL";

fn migrations() -> Vec<Migration> {
    let migration = |(version, name, statements): (i64, &'static str, &'static str)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, statements.into_sql_str(), false)
    };
    MIGRATIONS.into_iter().map(migration).collect()
}

/// Waits until no other provisions this installation; held until the session ends.
pub(crate) async fn lock(connection: &mut PgConnection, namespace: &str) -> Result<()> {
    let what = "wait for the right to provision";
    let by = tokio::time::Instant::now() + LOCK_LIMIT;
    loop {
        let held: bool = sqlx::query_scalar(LOCK)
            .bind(namespace.to_owned())
            .fetch_one(&mut *connection)
            .await
            .map_err(|error| fault::of(error, Call::Read, what))?;
        if held {
            return Ok(());
        }
        if tokio::time::Instant::now() >= by {
            return Err(Error::transient(format!("{what}: another `tidings provision` is at work")));
        }
        tokio::time::sleep(LOCK_POLL).await;
    }
}

/// The first schema of the search path that is named in it, whether it stands or not; `"$user"` is none.
async fn wanted_schema(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let path: String = sqlx::query_scalar(SEARCH_PATH).fetch_one(&mut *connection).await?;
    let unquoted = |name: &str| match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => quoted.replace("\"\"", "\""),
        None => name.to_lowercase(),
    };
    let first = path.split(',').map(|name| unquoted(name.trim())).find(|name| name != "$user");
    Ok(first.filter(|name| !name.is_empty()))
}

async fn missing_schema(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    let Some(wanted) = wanted_schema(&mut *connection).await? else { return Ok(None) };
    let stands: bool =
        sqlx::query_scalar(SCHEMA_STANDS).bind(wanted.clone()).fetch_one(&mut *connection).await?;
    Ok(Some(wanted).filter(|_| !stands))
}

/// Makes the schema that the search path begins with, where it is missing.
pub(crate) async fn make_schema(connection: &mut PgConnection) -> Result<()> {
    let made = async {
        if let Some(missing) = missing_schema(&mut *connection).await? {
            // Quoted as the standard has it: names are not ours to restrict.
            let statement = format!("CREATE SCHEMA IF NOT EXISTS \"{}\"", missing.replace('"', "\"\""));
            sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await?;
        }
        sqlx::Result::Ok(())
    };
    made.await.map_err(|error| fault::of(error, Call::Write, "make the schema of the search path"))
}

/// Brings the tables up to date, each migration in a transaction of its own.
pub(crate) async fn migrate(connection: &mut PgConnection) -> Result<()> {
    let what = "bring the schema up to date";
    let mut migrator = Migrator::with_migrations(migrations());
    // The driver's own lock is the whole database's; ours is held already.
    migrator.locking = false;
    migrator.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => Error::misconfigured(format!(
            "the database has migration {version}, which this program does not know: start the newer program that made it"
        )),
        MigrateError::VersionMismatch(version) => Error::misconfigured(format!(
            "the database's migration {version} differs from this program's: it was made by another build"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            fault::of(error, Call::Write, what)
        }
        error => Error::misconfigured(what).with_source(error),
    })
}

/// What is missing of it, by name. Writes nothing. *Misconfigured*: what stands is of another build, or of a newer one.
pub(crate) async fn missing(connection: &mut PgConnection) -> Result<Vec<String>> {
    let failed = |error| fault::of(error, Call::Read, "look at the schema");
    if let Some(schema) = missing_schema(&mut *connection).await.map_err(failed)? {
        return Ok(vec![format!("schema {schema}")]);
    }
    let at_all: bool =
        sqlx::query_scalar(MIGRATED_AT_ALL).fetch_one(&mut *connection).await.map_err(failed)?;
    let there = match at_all {
        true => sqlx::query(MIGRATED).fetch_all(&mut *connection).await.map_err(failed)?,
        false => Vec::new(),
    };
    let mut wanted = migrations().into_iter();
    for row in &there {
        let (version, checksum): (i64, Vec<u8>) =
            (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
        match wanted.next() {
            Some(wanted) if wanted.version == version && *wanted.checksum == checksum => {}
            Some(_) => {
                return Err(Error::misconfigured(format!(
                    "the database's migration {version} differs from this program's: it was made by another build"
                )));
            }
            None => {
                return Err(Error::misconfigured(format!(
                    "the database has migration {version}, which this program does not know: start the newer program that made it"
                )));
            }
        }
    }
    Ok(wanted.map(|missing| format!("migration {:04}_{}", missing.version, missing.description)).collect())
}

/// Ends a session that provisioned.
pub(crate) async fn leave(connection: PgConnection) {
    // Its lock goes with it either way.
    let _gone_either_way = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 5] = [LOCK, SEARCH_PATH, SCHEMA_STANDS, MIGRATED, MIGRATED_AT_ALL];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_folder() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/postgres");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let listed: Vec<_> =
            MIGRATIONS.iter().map(|(version, name, _)| format!("{version:04}_{name}.sql")).collect();
        assert_eq!(files, listed);
    }
}
