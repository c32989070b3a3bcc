//! The schema: migrations compiled in, run by every open.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr, SqliteConnection,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};
use tidings_domain::{Error, Result};

/// Every migration: version, name, statements. A test compares this list with `migrations/sqlite`.
const MIGRATIONS: [(i64, &str, &str); 5] = [
    (1, "installation", include_str!("../../../migrations/sqlite/0001_installation.sql")),
    (2, "items", include_str!("../../../migrations/sqlite/0002_items.sql")),
    (3, "deliveries", include_str!("../../../migrations/sqlite/0003_deliveries.sql")),
    (4, "dead_letters", include_str!("../../../migrations/sqlite/0004_dead_letters.sql")),
    (5, "mails", include_str!("../../../migrations/sqlite/0005_mails.sql")),
];

/// Brings the schema up to date, each migration in a transaction of its own.
pub(crate) async fn migrate(connection: &mut SqliteConnection) -> Result<()> {
    let migrations = MIGRATIONS.into_iter().map(|(version, name, statements)| {
        Migration::new(version, Cow::Borrowed(name), MigrationType::Simple, statements.into_sql_str(), false)
    });
    let migrator = Migrator::with_migrations(migrations.collect());
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
