//! The settings of the profile `selfhosted`: where its servers are, and how they are spoken to.

use std::{path::PathBuf, time::Duration};

use reqwest::Url;
use serde::{Deserialize, Serialize};

use super::{Shape, secret::SecretText};

/// How the table stream is read from Postgres.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Stream {
    /// How often the position is reported to the server.
    pub(crate) status_interval_ms: u64,
    /// How often a heartbeat is written into the server's log.
    pub(crate) heartbeat_interval_ms: u64,
    /// How long the server may be silent before its connection is taken for dead.
    pub(crate) silence_limit_ms: u64,
    /// How long nothing may be confirmed before the session is given up.
    pub(crate) stall_limit_ms: u64,
    /// How often a standby asks for the slot.
    pub(crate) standby_poll_ms: u64,
    /// Changes that are read ahead.
    pub(crate) read_ahead: usize,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            status_interval_ms: 1000,
            heartbeat_interval_ms: 3000,
            silence_limit_ms: 10_000,
            stall_limit_ms: 60_000,
            standby_poll_ms: 500,
            read_ahead: 2048,
        }
    }
}

/// Postgres.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    /// Where it is, with the password.
    pub(crate) url: SecretText,
    /// Certificates to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// The most connections of one process.
    pub(crate) max_connections: u32,
    /// How long a statement, and the wait for a connection, may take.
    pub(crate) statement_timeout: Duration,
}

/// RabbitMQ.
#[derive(Clone, Debug)]
pub(crate) struct Amqp {
    /// Where it is, with the password.
    pub(crate) url: SecretText,
    /// Certificates to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// Its management API, with the password.
    pub(crate) management_url: Option<SecretText>,
    /// Whether topology is declared, or only looked at.
    pub(crate) declares: bool,
    /// How long a publish may wait for its confirm.
    pub(crate) confirm_timeout: Duration,
    /// Publishes that may be unconfirmed at once.
    pub(crate) unconfirmed: usize,
}

/// Redis.
#[derive(Clone, Debug)]
pub(crate) struct Redis {
    /// Where it is, with the password.
    pub(crate) url: SecretText,
    /// Certificates to trust instead of the system's.
    pub(crate) ca_file: Option<PathBuf>,
    /// How long a call may take.
    pub(crate) timeout: Duration,
}

/// All servers of the profile.
#[derive(Clone, Debug)]
pub(crate) struct Selfhosted {
    /// Records and the table stream.
    pub(crate) database: Database,
    /// Topics and queues.
    pub(crate) amqp: Amqp,
    /// Limits; none: in process.
    pub(crate) redis: Option<Redis>,
    /// How the table stream is read.
    pub(crate) stream: Stream,
}

/// Reads what the profile needs; each fault goes to `fault`. None when something that it cannot be without is missing.
pub(super) fn read(shape: &Shape, fault: &mut impl FnMut(&str, String)) -> Option<Selfhosted> {
    let database = server(
        "database_url",
        shape.database_url.as_ref(),
        &["postgres", "postgresql"],
        "postgres://user:password@host:5432/database",
        fault,
    );
    let amqp = server(
        "amqp_url",
        shape.amqp_url.as_ref(),
        &["amqp", "amqps"],
        "amqp://user:password@host:5672/vhost",
        fault,
    );
    let management = optional(
        "rabbitmq_management_url",
        shape.rabbitmq_management_url.as_ref(),
        &["http", "https"],
        "http://user:password@host:15672",
        fault,
    );
    let redis = optional(
        "redis_url",
        shape.redis_url.as_ref(),
        &["redis", "rediss"],
        "redis://:password@host:6379/0",
        fault,
    );
    let database_ca = ca("database_ca_file", shape.database_ca_file.as_deref(), fault);
    let amqp_ca = ca("amqp_ca_file", shape.amqp_ca_file.as_deref(), fault);
    let redis_ca = ca("redis_ca_file", shape.redis_ca_file.as_deref(), fault);
    // A file that decides nothing is one by which somebody believes to be protected.
    let verifies =
        |url: &Url| url.query_pairs().any(|(name, mode)| name == "sslmode" && mode.starts_with("verify-"));
    if database_ca.is_some() && database.as_ref().is_some_and(|(_, url)| !verifies(url)) {
        fault(
            "database_ca_file",
            "no certificate is looked at without sslmode=verify-full (or verify-ca) in DATABASE_URL"
                .to_owned(),
        );
    }
    if amqp_ca.is_some() && amqp.as_ref().is_some_and(|(_, url)| url.scheme() != "amqps") {
        fault("amqp_ca_file", "no certificate is looked at unless AMQP_URL begins with amqps://".to_owned());
    }
    if redis_ca.is_some() && redis.as_ref().is_none_or(|(_, url)| url.scheme() != "rediss") {
        fault(
            "redis_ca_file",
            "no certificate is looked at unless REDIS_URL begins with rediss://".to_owned(),
        );
    }
    let declares = match shape.topology.as_str() {
        "declare" => true,
        "verify" => false,
        other => {
            fault("topology", format!("{other:?} is neither declare nor verify"));
            true
        }
    };
    if shape.stream.silence_limit_ms < shape.stream.heartbeat_interval_ms.saturating_mul(3) {
        fault(
            "stream.silence_limit_ms",
            "a server that only misses a heartbeat is not dead: at least three times stream.heartbeat_interval_ms".to_owned(),
        );
    }
    Some(Selfhosted {
        database: Database {
            url: database?.0,
            ca_file: database_ca,
            max_connections: shape.database_max_connections,
            statement_timeout: Duration::from_millis(shape.database_statement_timeout_ms),
        },
        amqp: Amqp {
            url: amqp?.0,
            ca_file: amqp_ca,
            management_url: management.map(|(url, _)| url),
            declares,
            confirm_timeout: Duration::from_millis(shape.amqp_confirm_timeout_ms),
            unconfirmed: shape.amqp_unconfirmed,
        },
        redis: redis.map(|(url, _)| Redis {
            url,
            ca_file: redis_ca,
            timeout: Duration::from_millis(shape.redis_timeout_ms),
        }),
        stream: shape.stream.clone(),
    })
}

/// A URL that has to be set. The fault never shows it.
fn server(
    key: &str,
    text: Option<&SecretText>,
    schemes: &[&str],
    shape: &str,
    fault: &mut impl FnMut(&str, String),
) -> Option<(SecretText, Url)> {
    if text.is_none() {
        fault(key, format!("the profile selfhosted needs it: write {shape}"));
    }
    optional(key, text, schemes, shape, fault)
}

/// A URL that may be set.
fn optional(
    key: &str,
    text: Option<&SecretText>,
    schemes: &[&str],
    shape: &str,
    fault: &mut impl FnMut(&str, String),
) -> Option<(SecretText, Url)> {
    let text = text?;
    match Url::parse(text.expose()) {
        Ok(url) if schemes.contains(&url.scheme()) && names_a_host(&url) => Some((text.clone(), url)),
        Ok(url) if !schemes.contains(&url.scheme()) => {
            fault(key, format!("it does not begin with {}://: write {shape}", schemes.join(":// or ")));
            None
        }
        Ok(_) => {
            fault(key, format!("it names no host: write {shape}"));
            None
        }
        Err(error) => {
            fault(
                key,
                format!(
                    "it is no URL ({error}): write {shape}; what is special in a password is percent-encoded"
                ),
            );
            None
        }
    }
}

/// Before the path, or in the query, where Postgres has it for sockets of the machine.
fn names_a_host(url: &Url) -> bool {
    let before = url.host_str().is_some_and(|host| !host.is_empty());
    before || url.query_pairs().any(|(name, host)| name == "host" && !host.is_empty())
}

/// A file of certificates.
fn ca(key: &str, path: Option<&str>, fault: &mut impl FnMut(&str, String)) -> Option<PathBuf> {
    let path = path?;
    match std::fs::read_to_string(path) {
        Ok(pem) if pem.contains("-----BEGIN CERTIFICATE-----") => Some(PathBuf::from(path)),
        Ok(_) => {
            fault(key, format!("there is no certificate (PEM) in {path}"));
            None
        }
        Err(error) => {
            fault(key, format!("{path} cannot be read: {error}"));
            None
        }
    }
}
