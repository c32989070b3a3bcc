//! The settings: one commented file compiled in, then `tidings.toml`, then the environment. All faults are told
//! together, before anything connects.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tidings_domain::{address::EmailAddress, token::Secret};

use self::{
    faults::Faults,
    layers::{Layered, Layers, Origin},
    secret::SecretText,
};
use crate::{
    http,
    profile::{Profile, Role},
};

pub(crate) mod faults;
pub(crate) mod layers;
pub(crate) mod report;
pub(crate) mod secret;

/// Every setting with its default, with comments for people.
const DEFAULTS: &str = include_str!("settings/defaults.toml");

/// The settings file that is read when it is there and no other is named.
const FILE: &str = "tidings.toml";

/// Settings that are secrets: never shown, not even in a fault.
const SECRETS: [&str; 3] = ["admin_key", "secret", "smtp_url"];

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
    grace_s: u64,
    log: String,
    log_format: String,
    http: http::Settings,
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
            grace_s: tidings_runtime::shutdown::DEFAULT_GRACE.as_secs(),
            log: "info".to_owned(),
            log_format: "auto".to_owned(),
            http: http::Settings::default(),
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
    pub(crate) smtp: Option<tidings_smtp::SmtpSettings>,
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

/// Checks all layers for a process that runs `roles`, all of them where it is empty.
pub(crate) fn check(mut layers: Layers, roles: &[Role], mut faults: Faults) -> Result<Settings, Faults> {
    let shape = read_shape(&mut layers, &mut faults);
    let checked = check_shape(&shape, &layers, roles, &mut faults);
    match checked {
        Some(settings) => faults.unless_any(settings),
        None => Err(faults),
    }
}

/// Reads the tree setting by setting: one of the wrong type is a fault of its own and keeps its default.
fn read_shape(layers: &mut Layers, faults: &mut Faults) -> Shape {
    let defaults = serde_json::to_value(Shape::default()).expect("the defaults are plain values");
    let mut tree = defaults.clone();
    let mut guessed = Vec::new();
    for (key, Layered { value, .. }) in layers.iter() {
        let alone = |value: &Value| {
            let mut alone = defaults.clone();
            layers::insert(&mut alone, key, value.clone());
            serde_json::from_value::<Shape>(alone)
        };
        let mut value = value.clone();
        let mut answer = alone(&value);
        if let (Err(_), Some(number)) = (&answer, value.as_str().and_then(layers::number)) {
            answer = alone(&number);
            value = number;
        }
        match answer {
            Ok(_) => {
                layers::insert(&mut tree, key, value.clone());
                guessed.push((key.to_owned(), value));
            }
            Err(_) if SECRETS.contains(&key) => faults.add(layers.subject(key), "this is a text, in quotes"),
            Err(error) => faults.add(layers.subject(key), error),
        }
    }
    for (key, value) in guessed {
        let origin = layers.get(&key).origin.clone();
        layers.set(&key, value, origin);
    }
    serde_json::from_value(tree).unwrap_or_default()
}

fn check_shape(shape: &Shape, layers: &Layers, roles: &[Role], faults: &mut Faults) -> Option<Settings> {
    let mut fault = |key: &str, message: String| faults.add(layers.subject(key), message);

    let profile = Profile::parse(&shape.profile).map_err(|mend| fault("profile", mend)).ok();
    if profile == Some(Profile::Embedded)
        && !roles.is_empty()
        && !Role::ALL.iter().all(|role| roles.contains(role))
    {
        let asked = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(", ");
        fault(
            "profile",
            format!(
                "`embedded` keeps everything in one process, so {asked} cannot run alone on it: run `tidings up`, which runs all four"
            ),
        );
    }
    let http_addr = socket(&shape.http_addr).map_err(|mend| fault("http_addr", mend)).ok();
    let admin_addr = match &shape.admin_addr {
        Some(text) => socket(text).map_err(|mend| fault("admin_addr", mend)).ok(),
        None => Some(SocketAddr::from((Ipv4Addr::LOCALHOST, Role::admin_port(roles)))),
    };
    if let (Some(http), Some(admin)) = (http_addr, admin_addr)
        && http == admin
        && http.port() != 0
    {
        fault("admin_addr", format!("{admin} is where the API listens already"));
    }
    if !is_namespace(&shape.namespace) {
        fault(
            "namespace",
            "a namespace is a lower-case letter and up to 19 lower-case letters or digits".to_owned(),
        );
    }
    if shape.data_dir.is_empty() {
        fault("data_dir", "name a folder".to_owned());
    }
    let public_url = shape
        .public_url
        .as_deref()
        .and_then(|text| public_url(text).map_err(|mend| fault("public_url", mend)).ok());
    for host in &shape.allowed_hosts {
        if host.is_empty() || host.contains(['/', ' ', '@']) {
            fault(
                "allowed_hosts",
                format!("{host:?} is no host: name hosts such as api or tidings.example.com"),
            );
        }
    }
    let mail_from =
        EmailAddress::parse(&shape.mail_from).map_err(|error| fault("mail_from", error.to_string())).ok();
    let smtp = shape.smtp_url.as_ref().and_then(|url| {
        tidings_smtp::SmtpSettings::from_url(url.expose()).map_err(|mend| fault("smtp_url", mend)).ok()
    });
    let secret = shape.secret.as_ref().and_then(|text| {
        let secret = secret_bytes(text.expose());
        if secret.is_none() {
            fault(
                "secret",
                "this is 32 bytes in hexadecimal, 64 digits: `openssl rand -hex 32` makes one".to_owned(),
            );
        }
        secret
    });
    if shape.admin_key.as_ref().is_some_and(|key| key.expose().len() < 16 || !key.expose().is_ascii()) {
        fault(
            "admin_key",
            "a key is at least 16 ASCII characters, best made by chance: `openssl rand -hex 32` makes one"
                .to_owned(),
        );
    }
    let auth = auth(shape, http_addr, &mut fault);
    if !(1..=3600).contains(&shape.grace_s) {
        fault("grace_s", format!("{} is not between 1 and 3600 seconds", shape.grace_s));
    }
    if let Err(error) = shape.log.parse::<tracing_subscriber::filter::EnvFilter>() {
        fault("log", format!("{error}: write a level such as info, or info,tidings_mailer=debug"));
    }
    let log_format = match shape.log_format.as_str() {
        "auto" => LogFormat::Auto,
        "human" => LogFormat::Human,
        "json" => LogFormat::Json,
        other => {
            fault("log_format", format!("{other:?} is none of auto, human, json"));
            LogFormat::Auto
        }
    };
    for (name, message) in shape.http.faults() {
        fault(&format!("http.{name}"), message);
    }
    Some(Settings {
        profile: profile?,
        http_addr: http_addr?,
        admin_addr: admin_addr?,
        data_dir: PathBuf::from(&shape.data_dir),
        namespace: shape.namespace.clone(),
        public_url,
        allowed_hosts: shape.allowed_hosts.clone(),
        auth,
        admin_key: shape.admin_key.clone(),
        secret,
        mail_from: mail_from?,
        smtp,
        grace: Duration::from_secs(shape.grace_s),
        log: shape.log.clone(),
        log_format,
        http: shape.http.clone(),
        api: shape.api.clone(),
        subscriber: shape.subscriber.clone(),
        cdc_watcher: shape.cdc_watcher.clone(),
        mailer: shape.mailer.clone(),
    })
}

/// Unset, the API is open on loopback and closed elsewhere. Open elsewhere has to be asked for by name.
fn auth(shape: &Shape, http_addr: Option<SocketAddr>, fault: &mut impl FnMut(&str, String)) -> Auth {
    let exposed = http_addr.is_some_and(|addr| !addr.ip().is_loopback());
    let required = match shape.auth.as_deref() {
        None => exposed,
        Some("required") => true,
        Some("off") => false,
        Some(other) => {
            fault("auth", format!("{other:?} is neither required nor off"));
            return Auth::Required;
        }
    };
    if !required {
        return Auth::Off { exposed };
    }
    if shape.admin_key.is_none() {
        let why =
            if shape.auth.is_some() { "keys are required" } else { "away from loopback keys are required" };
        fault(
            "auth",
            format!(
                "{why} and there is none: set TIDINGS_ADMIN_KEY (or TIDINGS_ADMIN_KEY_FILE) to one, for example made by `openssl rand -hex 32`, or let everyone in who reaches it with TIDINGS_AUTH=off"
            ),
        );
    }
    Auth::Required
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

fn socket(text: &str) -> Result<SocketAddr, String> {
    let numeric = text.strip_prefix("localhost:").map_or(text.to_owned(), |port| format!("127.0.0.1:{port}"));
    numeric
        .parse()
        .map_err(|_| format!("{text:?} is no IP address with a port, such as 127.0.0.1:8080 or [::]:8080"))
}

fn is_namespace(text: &str) -> bool {
    text.len() <= 20
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

fn public_url(text: &str) -> Result<String, String> {
    let mend = || format!("{text:?} is no address such as https://tidings.example.com");
    let url = reqwest::Url::parse(text).map_err(|_| mend())?;
    let plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain || url.password().is_some() {
        return Err(mend());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn secret_bytes(text: &str) -> Option<Secret> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(Secret::new(bytes))
}

#[cfg(test)]
mod tests;
