//! The layers of the settings: what is compiled in, then `tidings.toml`, then the environment. Each value keeps where
//! it came from.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::{Map, Value};

use super::faults::Faults;

/// Every variable of ours begins so.
const PREFIX: &str = "TIDINGS_";

/// Variables of ours that are no settings of the server.
const CLIENT_VARIABLES: [&str; 2] = ["TIDINGS_URL", "TIDINGS_KEY"];

/// Settings whose variable has a name that people know already.
const KNOWN_NAMES: [(&str, &str); 10] = [
    ("smtp_url", "SMTP_URL"),
    ("smtp_url_file", "SMTP_URL_FILE"),
    ("database_url", "DATABASE_URL"),
    ("database_url_file", "DATABASE_URL_FILE"),
    ("amqp_url", "AMQP_URL"),
    ("amqp_url_file", "AMQP_URL_FILE"),
    ("rabbitmq_management_url", "RABBITMQ_MANAGEMENT_URL"),
    ("rabbitmq_management_url_file", "RABBITMQ_MANAGEMENT_URL_FILE"),
    ("redis_url", "REDIS_URL"),
    ("redis_url_file", "REDIS_URL_FILE"),
];

/// Where a value came from. Later ones win.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Origin {
    /// Compiled in.
    Default,
    /// The settings file.
    File(PathBuf),
    /// The environment.
    Variable(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) => f.write_str(name),
        }
    }
}

/// One setting as it is in force.
#[derive(Clone, Debug)]
pub(crate) struct Layered {
    /// Its value; null where it is not set.
    pub(crate) value: Value,
    /// Where it came from.
    pub(crate) origin: Origin,
}

/// All settings by their dotted key.
#[derive(Clone, Debug)]
pub(crate) struct Layers {
    values: BTreeMap<String, Layered>,
}

impl Layers {
    /// The settings that there are, each with its default: `shape` is the whole tree, in which an object is a section
    /// and anything else a setting.
    pub(crate) fn new(shape: &Value) -> Self {
        let mut values = BTreeMap::new();
        flatten("", shape, &mut |key, value| {
            values.insert(key, Layered { value, origin: Origin::Default });
        });
        Self { values }
    }

    /// Takes out what is no setting of its own.
    pub(crate) fn remove(&mut self, keys: &[&str]) {
        self.values.retain(|key, _| !keys.contains(&key.as_str()));
    }

    /// Lays a settings file over it. A key that is none is a fault.
    pub(crate) fn lay_file(&mut self, origin: &Origin, text: &str, faults: &mut Faults) {
        let table: toml::Table = match text.parse() {
            Ok(table) => table,
            Err(error) => return faults.add(origin.to_string(), error.to_string().trim_end()),
        };
        let tree = match serde_json::to_value(&table) {
            Ok(tree) => tree,
            Err(error) => return faults.add(origin.to_string(), error),
        };
        let mut found = Vec::new();
        flatten("", &tree, &mut |key, value| found.push((key, value)));
        for (key, value) in found {
            if let Some(layered) = self.values.get_mut(&key) {
                *layered = Layered { value, origin: origin.clone() };
            } else {
                let known = self.values.keys().map(String::as_str);
                faults.add(format!("{key} ({origin})"), unknown("setting", &key, known));
            }
        }
    }

    /// Lays the environment over it. A variable that begins like ours and is none is a fault; an empty one is unset.
    pub(crate) fn lay_variables(&mut self, variables: &BTreeMap<String, String>, faults: &mut Faults) {
        let mut names: BTreeMap<String, String> =
            self.values.keys().map(|key| (variable(key), key.clone())).collect();
        for (name, text) in variables {
            if let Some(key) = names.get(name) {
                if text.is_empty() {
                    continue;
                }
                let layered = self.values.get_mut(key).expect("every name was made from a key");
                let value = parse_variable(&layered.value, text);
                *layered = Layered { value, origin: Origin::Variable(name.clone()) };
            }
        }
        for name in CLIENT_VARIABLES {
            names.insert(name.to_owned(), String::new());
        }
        for name in variables.keys().filter(|name| name.starts_with(PREFIX) && !names.contains_key(*name)) {
            faults.add(name.clone(), unknown("variable", name, names.keys().map(String::as_str)));
        }
    }

    /// One setting.
    pub(crate) fn get(&self, key: &str) -> &Layered {
        self.values.get(key).unwrap_or_else(|| panic!("{key} is a setting"))
    }

    /// Sets what another setting decides; the origin is that one's.
    pub(crate) fn set(&mut self, key: &str, value: Value, origin: Origin) {
        self.values.insert(key.to_owned(), Layered { value, origin });
    }

    /// All of them by key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Layered)> {
        self.values.iter().map(|(key, layered)| (key.as_str(), layered))
    }

    /// A setting's key with where its value came from, for a fault.
    pub(crate) fn subject(&self, key: &str) -> String {
        match &self.get(key).origin {
            Origin::Default => variable(key),
            Origin::File(path) => format!("{key} ({})", path.display()),
            Origin::Variable(name) => name.clone(),
        }
    }

    /// The tree again, as [`Layers::new`] took it.
    #[cfg(test)]
    pub(crate) fn tree(&self) -> Value {
        let mut tree = Value::Object(Map::new());
        for (key, layered) in self.iter() {
            insert(&mut tree, key, layered.value.clone());
        }
        tree
    }
}

/// The variable of a setting.
pub(crate) fn variable(key: &str) -> String {
    let known = KNOWN_NAMES.iter().find(|(known, _)| *known == key);
    known.map_or_else(
        || format!("{PREFIX}{}", key.replace('.', "_").to_uppercase()),
        |(_, name)| (*name).to_owned(),
    )
}

/// Puts `value` at a dotted key.
pub(crate) fn insert(tree: &mut Value, key: &str, value: Value) {
    let mut place = tree;
    for part in key.split('.') {
        if !place.is_object() {
            *place = Value::Object(Map::new());
        }
        place = place.as_object_mut().expect("just made one").entry(part).or_insert(Value::Null);
    }
    *place = value;
}

fn flatten(prefix: &str, tree: &Value, found: &mut impl FnMut(String, Value)) {
    match tree {
        Value::Object(section) => {
            for (name, value) in section {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, found);
            }
        }
        value => found(prefix.to_owned(), value.clone()),
    }
}

/// Reads a variable as what its default is. What cannot be read so stays a text, which is then a fault of its type.
fn parse_variable(default: &Value, text: &str) -> Value {
    let as_text = || Value::String(text.to_owned());
    match default {
        Value::Bool(_) => text.parse().map_or_else(|_| as_text(), Value::Bool),
        Value::Number(_) => number(text).unwrap_or_else(as_text),
        Value::Array(_) => {
            let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
            Value::Array(entries.map(|entry| Value::String(entry.to_owned())).collect())
        }
        Value::Null | Value::String(_) | Value::Object(_) => as_text(),
    }
}

/// `text` as a number, for settings whose default does not tell that they are one.
pub(crate) fn number(text: &str) -> Option<Value> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.into());
    }
    text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map(Value::Number)
}

fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let name = name.strip_prefix(PREFIX).unwrap_or(name);
    let nearest = known
        .map(|known| {
            let bare = known.strip_prefix(PREFIX).unwrap_or(known);
            (strsim::normalized_damerau_levenshtein(bare, name), known)
        })
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match nearest {
        Some((likeness, nearest)) if likeness >= 0.4 => {
            format!("there is no such {what}; the nearest is {nearest}")
        }
        _ => format!("there is no such {what}; `tidings config` lists all that there are"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layers() -> Layers {
        Layers::new(&json!({
            "http_addr": "127.0.0.1:8080", "allowed_hosts": [], "smtp_url": null,
            "mailer": { "concurrency": 4, "hold": false }
        }))
    }

    #[test]
    fn later_layers_win_and_say_so() {
        let (mut layers, mut faults) = (layers(), Faults::default());
        let file = Origin::File("tidings.toml".into());
        layers.lay_file(&file, "http_addr = 'a'\n[mailer]\nconcurrency = 9", &mut faults);
        let variables = [
            ("TIDINGS_MAILER_CONCURRENCY", "12"),
            ("TIDINGS_MAILER_HOLD", "true"),
            ("TIDINGS_ALLOWED_HOSTS", "a, b"),
            ("SMTP_URL", "smtp://h"),
            ("TIDINGS_URL", "x"),
            ("PATH", "/bin"),
        ];
        let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        layers.lay_variables(&variables, &mut faults);
        assert!(faults.0.is_empty(), "{faults}");
        assert_eq!(layers.get("http_addr").origin, file);
        assert_eq!(layers.get("mailer.concurrency").origin.to_string(), "TIDINGS_MAILER_CONCURRENCY");
        assert_eq!(
            layers.tree(),
            json!({
                "http_addr": "a", "allowed_hosts": ["a", "b"], "smtp_url": "smtp://h",
                "mailer": { "concurrency": 12, "hold": true }
            })
        );
    }

    #[test]
    fn what_is_unknown_names_the_nearest() {
        let (mut layers, mut faults) = (layers(), Faults::default());
        layers.lay_file(&Origin::File("f".into()), "http_adr = 'a'\n[mailr]\nconcurrency = 1", &mut faults);
        let names = ["TIDINGS_HTTP_ADRR", "TIDINGS_SMTP_URL", "TIDINGS_QQQQQQQ"];
        let variables = names.map(|name| (name.to_owned(), "1".to_owned())).into();
        layers.lay_variables(&variables, &mut faults);
        let text = faults.to_string();
        for expected in [
            "http_adr (f): there is no such setting; the nearest is http_addr",
            "mailr.concurrency (f): there is no such setting; the nearest is mailer.concurrency",
            "TIDINGS_HTTP_ADRR: there is no such variable; the nearest is TIDINGS_HTTP_ADDR",
            "TIDINGS_SMTP_URL: there is no such variable; the nearest is SMTP_URL",
            "TIDINGS_QQQQQQQ: there is no such variable; `tidings config`",
        ] {
            assert!(text.contains(expected), "{expected} in {text}");
        }
    }
}
