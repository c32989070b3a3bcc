//! What a store needs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use opentelemetry::metrics::Meter;
use tidings_domain::ports::{Clock, Entropy};

/// What a store needs.
#[derive(Clone)]
pub struct Options {
    /// `postgres://user:password@host:5432/database?sslmode=...`. Modes: `disable`, `prefer`, `require`, `verify-ca`,
    /// `verify-full`, as libpq has them (`require` with certificates to trust is `verify-ca`); `sslrootcert` names a file.
    /// `options=-c search_path=...` chooses a schema, which provisioning makes where it is missing.
    pub url: String,
    /// Certificates (PEM) to trust beside the public authorities', which are compiled in, for `verify-ca` and `verify-full`.
    /// Since those stay trusted, `verify-ca` accepts whoever has a certificate of theirs: a server of your own authority is
    /// told from every other by `verify-full` alone.
    pub ca_file: Option<PathBuf>,
    /// Names the slot and the publication.
    pub namespace: String,
    /// What `pg_stat_activity` shows: `tidings-api` and the like.
    pub application_name: String,
    /// The most connections of the pool; the table stream has up to three more.
    pub max_connections: u32,
    /// How long a statement may take before the server cancels it; also how long a connection may be waited for.
    pub statement_timeout: Duration,
    /// How the slot is read.
    pub stream: StreamOptions,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Jitter, and where the installation's secret comes from.
    pub entropy: Arc<dyn Entropy>,
    /// What the stream's metrics are made of.
    pub meter: Meter,
}

/// How the slot is read.
#[derive(Clone, Debug)]
pub struct StreamOptions {
    /// How often the position is reported to the server, and how long the last report may take when the stream is closed.
    pub status_interval: Duration,
    /// How often a heartbeat is written into the log of the server, which moves the slot past what others write.
    pub heartbeat_interval: Duration,
    /// How long the server may be silent before the connection is taken for dead; at least three heartbeats.
    pub silence_limit: Duration,
    /// How long nothing may be confirmed, while something is handed out, before the session is given up so that the
    /// server can shut down; the slot keeps the position.
    pub stall_limit: Duration,
    /// How often a standby asks for the slot.
    pub standby_poll: Duration,
    /// Changes that are read ahead.
    pub read_ahead: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            status_interval: Duration::from_secs(1),
            heartbeat_interval: Duration::from_secs(3),
            silence_limit: Duration::from_secs(10),
            stall_limit: Duration::from_secs(60),
            standby_poll: Duration::from_millis(500),
            read_ahead: 2048,
        }
    }
}
