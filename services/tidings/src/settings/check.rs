//! What the layers say, checked: every fault is found, none hides another.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde_json::Value;
use tidings_domain::{address::EmailAddress, token::Secret};
use tidings_smtp::SmtpSettings;

use super::{
    Auth, LogFormat, SECRETS, Settings, Shape, bounds,
    faults::Faults,
    layers::{self, Layered, Layers},
    selfhosted,
};
use crate::profile::{Profile, Role};

/// What settings are read for, which decides what has to be set.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scope<'a> {
    /// A process that runs these services, all of them where none is named.
    Serve(&'a [Role]),
    /// A command that works on what such processes use; it serves nobody and mails nobody.
    Operate(&'a [Role]),
}

impl Scope<'_> {
    fn roles(&self) -> &[Role] {
        match self {
            Self::Serve(roles) | Self::Operate(roles) => roles,
        }
    }

    /// Whether the process runs this service.
    fn runs(&self, role: Role) -> bool {
        matches!(self, Self::Serve(roles) if roles.is_empty() || roles.contains(&role))
    }
}

/// Checks all layers.
pub(crate) fn check(mut layers: Layers, scope: Scope<'_>, mut faults: Faults) -> Result<Settings, Faults> {
    let shape = read_shape(&mut layers, &mut faults);
    let checked = check_shape(&shape, &layers, scope, &mut faults);
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

fn check_shape(shape: &Shape, layers: &Layers, scope: Scope<'_>, faults: &mut Faults) -> Option<Settings> {
    let mut fault = |key: &str, message: String| faults.add(layers.subject(key), message);

    let (roles, runs_api) = (scope.roles(), scope.runs(Role::Api));
    let profile = Profile::parse(&shape.profile).map_err(|mend| fault("profile", mend)).ok();
    if profile == Some(Profile::Embedded)
        && matches!(scope, Scope::Serve(_))
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
        && runs_api
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
    // Whoever mails and does not serve has to know where links lead.
    if scope.runs(Role::Mailer)
        && !runs_api
        && shape.public_url.is_none()
        && http_addr.is_some_and(|addr| addr.port() == 0)
    {
        fault(
            "public_url",
            "a mailer by itself cannot know on which free port the API listens: name the address of the API, for links in mails"
                .to_owned(),
        );
    }
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
    let smtp = smtp(shape, &mut fault);
    let selfhosted = (profile == Some(Profile::Selfhosted)).then(|| {
        if shape.smtp_url.is_none() && matches!(scope, Scope::Serve(_)) {
            let shape = "smtp://user:password@host:587 or smtp://localhost:25";
            fault("smtp_url", format!("the profile selfhosted needs it: write {shape}"));
        }
        selfhosted::read(shape, &mut fault)
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
    let auth = auth(shape, http_addr, runs_api, &mut fault);
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
    if !(1..=1000).contains(&shape.smtp_max_connections) {
        fault("smtp_max_connections", format!("{} is not between 1 and 1000", shape.smtp_max_connections));
    }
    for (name, message) in shape.http.faults() {
        fault(&format!("http.{name}"), message);
    }
    for (key, message) in bounds::faults(shape) {
        fault(key, message);
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
        selfhosted: match selfhosted {
            None => None,
            Some(read) => Some(read?),
        },
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

/// Unset, the API is open on loopback and closed elsewhere. Open elsewhere has to be asked for by name. A process without
/// the API needs no key.
fn auth(
    shape: &Shape,
    http_addr: Option<SocketAddr>,
    runs_api: bool,
    fault: &mut impl FnMut(&str, String),
) -> Auth {
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
    if shape.admin_key.is_none() && runs_api {
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

fn smtp(shape: &Shape, fault: &mut impl FnMut(&str, String)) -> Option<SmtpSettings> {
    let url = shape.smtp_url.as_ref()?;
    let mut smtp = SmtpSettings::from_url(url.expose()).map_err(|mend| fault("smtp_url", mend)).ok()?;
    smtp.max_connections = shape.smtp_max_connections;
    if let Some(path) = &shape.smtp_ca_file {
        match std::fs::read(path) {
            Ok(pem) => smtp.ca_pem = Some(pem),
            Err(error) => fault("smtp_ca_file", format!("{path} cannot be read: {error}")),
        }
    }
    Some(smtp)
}
