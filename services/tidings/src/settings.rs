//! The settings: one commented file compiled in, then `tidings.toml`, then the environment. All faults are told
//! together, before anything connects.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings_domain::{address::EmailAddress, token::Secret};
use tidings_smtp::SmtpSettings;

use self::{
    faults::Faults,
    layers::{Layers, Origin},
    secret::SecretText,
};
use crate::{http, profile::Profile};

mod bounds;
mod check;
pub(crate) mod faults;
pub(crate) mod layers;
pub(crate) mod report;
pub(crate) mod secret;
#[cfg_attr(not(feature = "selfhosted"), allow(dead_code, reason = "what it reads is the profile's"))]
pub(crate) mod selfhosted;

pub(crate) use check::{Scope, check};
pub(crate) use selfhosted::Selfhosted;

/// Every setting with its default, with comments for people.
const DEFAULTS: &str = include_str!("settings/defaults.toml");

/// The settings file that is read when it is there and no other is named.
const FILE: &str = "tidings.toml";

/// Settings that are secrets: never shown, not even in a fault.
const SECRETS: [&str; 7] =
    ["admin_key", "secret", "smtp_url", "database_url", "amqp_url", "rabbitmq_management_url", "redis_url"];

/// What a service's own settings hold and a setting of the whole decides.
const DECIDED_ELSEWHERE: [&str; 7] = [
    "api.namespace",
    "api.auth",
    "api.admin_key",
    "api.public_url",
    "api.allowed_hosts",
    "mailer.mail_from",
    "mailer.public_url",
];

/// The shape of a settings file. What a service decides on lies in a section of its own, whose struct is the service's.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Shape {
    profile: String,
    http_addr: String,
    admin_addr: Option<String>,
    data_dir: String,
    namespace: String,
    public_url: Option<String>,
    allowed_hosts: Vec<String>,
    auth: Option<String>,
    admin_key: Option<SecretText>,
    admin_key_file: Option<String>,
    secret: Option<SecretText>,
    secret_file: Option<String>,
    mail_from: String,
    smtp_url: Option<SecretText>,
    smtp_url_file: Option<String>,
    smtp_max_connections: usize,
    smtp_ca_file: Option<String>,
    database_url: Option<SecretText>,
    database_url_file: Option<String>,
    database_ca_file: Option<String>,
    database_max_connections: u32,
    database_statement_timeout_ms: u64,
    amqp_url: Option<SecretText>,
    amqp_url_file: Option<String>,
    amqp_ca_file: Option<String>,
    amqp_confirm_timeout_ms: u64,
    amqp_unconfirmed: usize,
    rabbitmq_management_url: Option<SecretText>,
    rabbitmq_management_url_file: Option<String>,
    topology: String,
    redis_url: Option<SecretText>,
    redis_url_file: Option<String>,
    redis_ca_file: Option<String>,
    redis_timeout_ms: u64,
    grace_s: u64,
    log: String,
    log_format: String,
    http: http::Settings,
    stream: selfhosted::Stream,
    api: tidings_api::Settings,
    subscriber: tidings_subscriber::Settings,
    cdc_watcher: tidings_cdc_watcher::Settings,
    mailer: tidings_mailer::Settings,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            profile: "embedded".to_owned(),
            http_addr: "127.0.0.1:8080".to_owned(),
            admin_addr: None,
            data_dir: "./tidings-data".to_owned(),
            namespace: "tidings".to_owned(),
            public_url: None,
            allowed_hosts: Vec::new(),
            auth: None,
            admin_key: None,
            admin_key_file: None,
            secret: None,
            secret_file: None,
            mail_from: "tidings@tidings.localhost".to_owned(),
            smtp_url: None,
            smtp_url_file: None,
            smtp_max_connections: SmtpSettings::DEFAULT_MAX_CONNECTIONS,
            smtp_ca_file: None,
            database_url: None,
            database_url_file: None,
            database_ca_file: None,
            database_max_connections: 10,
            database_statement_timeout_ms: 10_000,
            amqp_url: None,
            amqp_url_file: None,
            amqp_ca_file: None,
            amqp_confirm_timeout_ms: 8000,
            amqp_unconfirmed: 256,
            rabbitmq_management_url: None,
            rabbitmq_management_url_file: None,
            topology: "declare".to_owned(),
            redis_url: None,
            redis_url_file: None,
            redis_ca_file: None,
            redis_timeout_ms: 250,
            grace_s: tidings_runtime::shutdown::DEFAULT_GRACE.as_secs(),
            log: "info".to_owned(),
            log_format: "auto".to_owned(),
            http: http::Settings::default(),
            stream: selfhosted::Stream::default(),
            api: tidings_api::Settings::default(),
            subscriber: tidings_subscriber::Settings::default(),
            cdc_watcher: tidings_cdc_watcher::Settings::default(),
            mailer: tidings_mailer::Settings::default(),
        }
    }
}

/// Who may call the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Everyone who reaches it; asked for by name where it can be reached from elsewhere.
    Off {
        /// Whether it listens away from loopback.
        exposed: bool,
    },
    /// Only who brings a key.
    Required,
}

/// How logs are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people, when stderr is a terminal; else JSON.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What is in force, checked.
#[cfg_attr(
    not(all(feature = "embedded", feature = "selfhosted")),
    allow(dead_code, reason = "what one profile alone reads")
)]
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// What the roles of the topology are played by.
    pub(crate) profile: Profile,
    /// Where the API listens.
    pub(crate) http_addr: SocketAddr,
    /// Where health details and metrics are.
    pub(crate) admin_addr: SocketAddr,
    /// Where `embedded` keeps its file.
    pub(crate) data_dir: PathBuf,
    /// What prefixes every name.
    pub(crate) namespace: String,
    /// For links in mails, without a slash at the end; none: where the API listens.
    pub(crate) public_url: Option<String>,
    /// Hosts that a request may name besides loopback and the public URL's.
    pub(crate) allowed_hosts: Vec<String>,
    /// Who may call.
    pub(crate) auth: Auth,
    /// A key with every scope that need not be made first.
    pub(crate) admin_key: Option<SecretText>,
    /// What tokens are signed with, instead of what the store keeps.
    pub(crate) secret: Option<Secret>,
    /// The sender of all mails.
    pub(crate) mail_from: EmailAddress,
    /// The mail server; none: the built-in mail catcher.
    pub(crate) smtp: Option<SmtpSettings>,
    /// The servers of that profile; none on another.
    pub(crate) selfhosted: Option<Selfhosted>,
    /// How long stopping may take.
    pub(crate) grace: Duration,
    /// What is logged, as `tracing_subscriber::EnvFilter` reads it.
    pub(crate) log: String,
    /// How logs are written.
    pub(crate) log_format: LogFormat,
    /// The bounds of the accept loop.
    pub(crate) http: http::Settings,
    /// The api's own.
    pub(crate) api: tidings_api::Settings,
    /// The subscriber's own.
    pub(crate) subscriber: tidings_subscriber::Settings,
    /// The watcher's own.
    pub(crate) cdc_watcher: tidings_cdc_watcher::Settings,
    /// The mailer's own.
    pub(crate) mailer: tidings_mailer::Settings,
}

/// Where settings are read from.
pub(crate) struct Sources {
    /// The file that was named; none: `tidings.toml`, when it is there.
    pub(crate) file: Option<PathBuf>,
    /// The environment.
    pub(crate) variables: BTreeMap<String, String>,
}

/// All settings there are, none of them set.
fn bare() -> Layers {
    let shape = serde_json::to_value(Shape::default()).expect("the defaults are plain values");
    let mut layers = Layers::new(&shape);
    layers.remove(&DECIDED_ELSEWHERE);
    layers
}

/// Reads all layers. The layers are given even where there are faults, so that `tidings config` can show them.
pub(crate) fn layers(sources: &Sources, faults: &mut Faults) -> Layers {
    let mut layers = bare();
    layers.lay_file(&Origin::Default, DEFAULTS, faults);
    let path = sources.file.clone().unwrap_or_else(|| PathBuf::from(FILE));
    let origin = Origin::File(path.clone());
    match std::fs::read_to_string(&path) {
        Ok(text) => layers.lay_file(&origin, &text, faults),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && sources.file.is_none() => {}
        Err(error) => faults.add(origin.to_string(), format!("the settings file cannot be read: {error}")),
    }
    layers.lay_variables(&sources.variables, faults);
    for key in SECRETS {
        read_secret_file(&mut layers, key, faults);
    }
    layers
}

/// Reads `<key>_file` into `key`. Of the two the later layer wins; both in one layer are a fault.
fn read_secret_file(layers: &mut Layers, key: &str, faults: &mut Faults) {
    let file_key = format!("{key}_file");
    let (plain, file) = (layers.get(key).clone(), layers.get(&file_key).clone());
    let Some(path) = file.value.as_str() else { return };
    let rank = |origin: &Origin| match origin {
        Origin::Default => 0,
        Origin::File(_) => 1,
        Origin::Variable(_) => 2,
    };
    if !plain.value.is_null() {
        match rank(&plain.origin).cmp(&rank(&file.origin)) {
            std::cmp::Ordering::Greater => return,
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => {
                return faults.add(
                    layers.subject(&file_key),
                    format!("{} is set as well: set one of the two", layers::variable(key)),
                );
            }
        }
    }
    match std::fs::read_to_string(Path::new(path)) {
        Ok(text) if text.trim().is_empty() => {
            faults.add(layers.subject(&file_key), format!("{path} is empty"))
        }
        Ok(text) => layers.set(key, Value::String(text.trim().to_owned()), file.origin),
        Err(error) => faults.add(layers.subject(&file_key), format!("{path} cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests;
