//! How the file is opened.

use std::{path::Path, time::Duration};

use sqlx::{
    ConnectOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous},
};

/// How long a statement waits for another program that holds the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a read waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections that read. Each is a thread with a page cache of its own.
const READERS: u32 = 3;

/// Pages of 4 KiB after which a commit moves the log into the file. Larger than the default: a page that many groups
/// change is moved once.
const CHECKPOINT_PAGES: &str = "4000";

/// The log file is cut back to this many bytes after a checkpoint.
const LOG_BYTES: &str = "67108864";

fn options(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .foreign_keys(false)
        .busy_timeout(BUSY_TIMEOUT)
        .row_buffer_size(1024)
        .disable_statement_logging()
}

/// The writer's: makes the file where there is none.
pub(crate) fn writing(file: &Path) -> SqliteConnectOptions {
    options(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .pragma("journal_size_limit", LOG_BYTES)
        .pragma("cache_size", "-8192")
        .pragma("temp_store", "memory")
        .thread_name(|_| "tidings-sqlite-write".to_owned())
}

/// A look at the file that leaves nothing behind. Where no log lies beside the file nobody has it open, and none is made.
pub(crate) fn looking(file: &Path) -> SqliteConnectOptions {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    options(file).read_only(true).immutable(!Path::new(&log).exists())
}

/// The readers', opened as they are needed.
pub(crate) fn readers(file: &Path) -> SqlitePool {
    let options = options(file)
        .read_only(true)
        .pragma("cache_size", "-2048")
        .pragma("temp_store", "memory")
        .thread_name(|id| format!("tidings-sqlite-read-{id}"));
    SqlitePoolOptions::new()
        .max_connections(READERS)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .idle_timeout(Some(Duration::from_secs(60)))
        .connect_lazy_with(options)
}
