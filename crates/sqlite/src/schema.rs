//! The schema: migrations compiled in, run by every open.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr, SqliteConnection,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use tidings_domain::{Error, Result};

/// Every migration: version, name, statements. A test compares this list with `migrations/sqlite`.
const MIGRATIONS: [(i64, &str, &str); 6] = [
    (1, "installation", include_str!("../../../migrations/sqlite/0001_installation.sql")),
    (2, "items", include_str!("../../../migrations/sqlite/0002_items.sql")),
    (3, "deliveries", include_str!("../../../migrations/sqlite/0003_deliveries.sql")),
    (4, "dead_letters", include_str!("../../../migrations/sqlite/0004_dead_letters.sql")),
    (5, "mails", include_str!("../../../migrations/sqlite/0005_mails.sql")),
    (6, "no_counters", include_str!("../../../migrations/sqlite/0006_no_counters.sql")),
];

fn migrations() -> Vec<Migration> {
    let migration = |(version, name, statements): (i64, &'static str, &'static str)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, statements.into_sql_str(), false)
    };
    MIGRATIONS.into_iter().map(migration).collect()
}

/// Whether the schema is this program's; writes nothing. *Misconfigured* where it is another's or not whole.
pub(crate) async fn compare(connection: &mut SqliteConnection) -> Result<()> {
    let read =
        sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success ORDER BY version");
    let there: Vec<(i64, Vec<u8>)> = read.fetch_all(connection).await.map_err(|error| {
        Error::misconfigured("the database has no schema yet: run `tidings provision`").with_source(error)
    })?;
    let wanted = migrations();
    match there.iter().zip(&wanted).find(|(is, wanted)| is.0 != wanted.version || is.1 != *wanted.checksum) {
        Some((is, _)) => Err(Error::misconfigured(format!(
            "the database's migration {} differs from this program's: it was made by another build",
            is.0
        ))),
        None if there.len() < wanted.len() => Err(Error::misconfigured(format!(
            "the database has {} of {} migrations: run `tidings provision`",
            there.len(),
            wanted.len()
        ))),
        None if there.len() > wanted.len() => Err(Error::misconfigured(
            "the database has migrations that this program does not know: start the newer program that made it",
        )),
        None => Ok(()),
    }
}

/// Brings the schema up to date, each migration in a transaction of its own.
pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<()> {
    let migrator = Migrator::with_migrations(migrations());
    // Not `run`: its generic way to a connection makes futures that are not `Send` in all of their callers.
    migrator.run_direct(None, connection, false).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => Error::misconfigured(format!(
            "the database has migration {version}, which this program does not know: start the newer program that made it"
        )),
        MigrateError::VersionMismatch(version) => Error::misconfigured(format!(
            "the database's migration {version} differs from this program's: it was made by another build"
        )),
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            crate::fault::opening(error, "bring the schema up to date")
        }
        error => Error::misconfigured("bring the schema up to date").with_source(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_the_folder() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/sqlite");
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
