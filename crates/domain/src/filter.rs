//! A subscription's filter: which messages of its topic are mailed. SNS's syntax for exact values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{attributes::Attributes, text::is_carried};

/// The most names in a filter.
pub const MAX_NAMES: usize = 16;

/// The most values in a filter over all its names.
pub const MAX_VALUES: usize = 150;

/// The largest filter as JSON, in bytes.
pub const MAX_BYTES: usize = 8 * 1024;

/// Why a JSON value is no filter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// Not an object.
    #[error("a filter is a JSON object of attribute names to lists of values")]
    NotAnObject,
    /// A name whose value is not a list of values.
    #[error("filter {name:?}: give a list of 1 or more strings, numbers or booleans")]
    NotAList {
        /// Whose value.
        name: String,
    },
    /// Too large.
    #[error("a filter has at most {MAX_NAMES} names, {MAX_VALUES} values and {MAX_BYTES} bytes")]
    TooLarge,
    /// A character that no attribute can hold.
    #[error("filter {name:?}: control characters other than tab, CR and LF match nothing")]
    Character {
        /// Whose name or value.
        name: String,
    },
}

/// Attribute names to exact values. Every name must match, by any of its values; an empty filter matches all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Filter(BTreeMap<String, Vec<Value>>);

impl Filter {
    /// Checks a JSON value.
    pub fn from_json(value: Value) -> Result<Self, InvalidFilter> {
        let bytes = value.to_string().len();
        let Value::Object(object) = value else { return Err(InvalidFilter::NotAnObject) };
        let mut names = BTreeMap::new();
        let mut values = 0;
        for (name, value) in object {
            let Value::Array(list) = value else { return Err(InvalidFilter::NotAList { name }) };
            let scalar = |v: &Value| matches!(v, Value::String(_) | Value::Number(_) | Value::Bool(_));
            if list.is_empty() || !list.iter().all(scalar) {
                return Err(InvalidFilter::NotAList { name });
            }
            if !is_carried(&name) || list.iter().any(|v| v.as_str().is_some_and(|text| !is_carried(text))) {
                return Err(InvalidFilter::Character { name });
            }
            values += list.len();
            names.insert(name, list);
        }
        if names.len() > MAX_NAMES || values > MAX_VALUES || bytes > MAX_BYTES {
            return Err(InvalidFilter::TooLarge);
        }
        Ok(Self(names))
    }

    /// The JSON object.
    pub fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, list)| (name.clone(), Value::Array(list.clone()))).collect())
    }

    /// The JSON text of the object; an empty filter is an empty text.
    pub fn to_json_text(&self) -> String {
        if self.0.is_empty() { String::new() } else { self.to_json().to_string() }
    }

    /// Reads what [`Filter::to_json_text`] wrote.
    pub fn from_json_text(text: &str) -> Result<Self, InvalidFilter> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        Self::from_json(serde_json::from_str(text).map_err(|_| InvalidFilter::NotAnObject)?)
    }

    /// Whether it lets everything through.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a message with `attributes` is mailed. Strings compare by bytes, numbers by value, booleans as they
    /// are; of a list any element may match; a missing attribute does not match.
    pub fn matches(&self, attributes: &Attributes) -> bool {
        self.0.iter().all(|(name, wanted)| match attributes.get(name) {
            None => false,
            Some(Value::Array(list)) => list.iter().any(|element| wanted.iter().any(|w| same(w, element))),
            Some(value) => wanted.iter().any(|w| same(w, value)),
        })
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            let integers = a.as_i128().zip(b.as_i128()).map(|(a, b)| a == b);
            integers.unwrap_or_else(|| a.as_f64() == b.as_f64())
        }
        (a, b) => a == b,
    }
}

impl TryFrom<Value> for Filter {
    type Error = InvalidFilter;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        Self::from_json(value)
    }
}

impl From<Filter> for Value {
    fn from(filter: Filter) -> Self {
        filter.to_json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn matches(filter: Value, attributes: Value) -> bool {
        Filter::from_json(filter).unwrap().matches(&Attributes::from_json(attributes).unwrap())
    }

    #[test]
    fn every_name_by_any_value() {
        assert!(matches(json!({}), json!({})));
        assert!(matches(json!({"customer": ["a", "b"]}), json!({"customer": "b", "x": 1})));
        assert!(!matches(json!({"customer": ["a"]}), json!({})));
        assert!(!matches(json!({"customer": ["a"], "x": [2]}), json!({"customer": "a", "x": 1})));
        assert!(matches(json!({"tags": ["b"]}), json!({"tags": ["a", "b"]})));
        assert!(matches(json!({"n": [1.0]}), json!({"n": 1})));
        assert!(!matches(json!({"n": ["1"]}), json!({"n": 1})));
        assert!(!matches(json!({"n": [9007199254740993_i64]}), json!({"n": 9007199254740992_i64})));
        assert!(matches(json!({"b": [true]}), json!({"b": true})));
        assert!(!matches(json!({"s": ["É"]}), json!({"s": "E\u{301}"})));
    }

    #[test]
    fn only_lists_of_values() {
        for bad in [json!([]), json!({"a": "x"}), json!({"a": []}), json!({"a": [null]}), json!({"a": [{}]})]
        {
            assert!(Filter::from_json(bad.clone()).is_err(), "{bad}");
        }
    }
}
