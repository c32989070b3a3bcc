//! What is in force, for `tidings config`: secrets masked, each with where it came from.

use serde_json::{Value, json};

use super::{
    SECRETS,
    layers::{Layered, Layers},
    secret::{MASK, mask_url},
};

/// Lines as in a settings file, each followed by where it came from.
pub(crate) fn text(layers: &Layers) -> String {
    let rows: Vec<(String, String)> = layers
        .iter()
        .map(|(key, layered)| match shown(key, layered) {
            Value::Null => (format!("# {key} is not set"), String::new()),
            value => (format!("{key} = {value}"), format!("# {}", layered.origin)),
        })
        .collect();
    let width = rows.iter().map(|(left, _)| left.chars().count()).max().unwrap_or(0).min(60);
    rows.iter().map(|(left, right)| format!("{left:width$}  {right}").trim_end().to_owned() + "\n").collect()
}

/// The same for scripts.
pub(crate) fn json(layers: &Layers) -> Value {
    let settings = layers.iter().map(|(key, layered)| {
        (key.to_owned(), json!({ "value": shown(key, layered), "from": layered.origin.to_string() }))
    });
    Value::Object(settings.collect())
}

fn shown(key: &str, layered: &Layered) -> Value {
    match &layered.value {
        Value::String(url) if key.ends_with("_url") && SECRETS.contains(&key) => mask_url(url).into(),
        Value::Null => Value::Null,
        _ if SECRETS.contains(&key) => MASK.into(),
        value => value.clone(),
    }
}
