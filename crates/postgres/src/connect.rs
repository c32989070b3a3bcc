//! How a session is opened: the URL, TLS, and what every session of ours sets for itself.

use std::path::Path;

use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};
use tidings_domain::{Error, Result};
use url::Url;

use crate::options::Options;

/// Statements of one session that the server keeps prepared; more than this crate has. A pooler between us and the server
/// that hands a session to somebody else between two statements (pgbouncer's transaction mode) loses them: not claimed.
const STATEMENTS: usize = 200;

/// The modes that a URL may name. libpq's `allow` is left out: the driver would take it for `disable`.
const MODES: [&str; 5] = ["disable", "prefer", "require", "verify-ca", "verify-full"];

/// Reads the URL. What is absent in it comes from libpq's variables (`PGHOST`, ...) and its password file, as people expect.
///
/// *Misconfigured*: it cannot be read, or names a TLS mode or a file that there is not. The URL, with its password, is in no
/// context and no source.
pub(crate) fn plain(options: &Options) -> Result<PgConnectOptions> {
    let wrong = |what: &str| Error::misconfigured(format!("read DATABASE_URL: {what}"));
    let url = Url::parse(&options.url)
        .map_err(|_| wrong("it is no URL: write postgres://user:password@host:5432/database"))?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(wrong("its scheme is neither postgres nor postgresql"));
    }
    for (key, value) in url.query_pairs() {
        match &*key {
            "sslmode" | "ssl-mode" if !MODES.contains(&&*value.to_ascii_lowercase()) => {
                return Err(wrong("sslmode is one of disable, prefer, require, verify-ca and verify-full"));
            }
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => readable(Path::new(&*value), "sslrootcert")?,
            _ => {}
        }
    }
    // The driver's own words may repeat what it read.
    let mut connect =
        PgConnectOptions::from_url(&url).map_err(|_| wrong("a parameter of it cannot be read"))?;
    if matches!(connect.get_ssl_mode(), PgSslMode::Allow) {
        connect = connect.ssl_mode(PgSslMode::Prefer);
    }
    if let Some(file) = &options.ca_file {
        readable(file, "the file of certificates to trust")?;
        connect = connect.ssl_root_cert(file);
    }
    // As libpq has it: whoever names an authority wants it asked.
    if matches!(connect.get_ssl_mode(), PgSslMode::Require) && names_authority(&url, options) {
        connect = connect.ssl_mode(PgSslMode::VerifyCa);
    }
    Ok(connect
        .application_name(&options.application_name)
        .statement_cache_capacity(STATEMENTS)
        .disable_statement_logging())
}

/// The same for the pool: what every session sets for itself, over whatever the server, the database or the role has.
pub(crate) fn pooled(options: &Options) -> Result<PgConnectOptions> {
    let milliseconds = options.statement_timeout.as_millis().to_string();
    Ok(plain(options)?.options([
        // Whoever acknowledges waits for the disk.
        ("synchronous_commit", "on"),
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", &milliseconds),
        ("idle_in_transaction_session_timeout", &milliseconds),
        // Every statement here finds its rows by a key or along an index. Plans are kept for a session's life: none is to
        // come of statistics that say a table is empty which has a million rows a minute later.
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
        ("max_parallel_workers_per_gather", "0"),
        ("plan_cache_mode", "force_generic_plan"),
    ]))
}

fn names_authority(url: &Url, options: &Options) -> bool {
    let named = |key: &str| matches!(key, "sslrootcert" | "ssl-root-cert" | "ssl-ca");
    options.ca_file.is_some() || url.query_pairs().any(|(key, _)| named(&key))
}

fn readable(file: &Path, what: &str) -> Result<()> {
    std::fs::read(file).map(|_| ()).map_err(|error| {
        Error::misconfigured(format!("read {what} {}: give this user the right to", file.display()))
            .with_source(error)
    })
}
