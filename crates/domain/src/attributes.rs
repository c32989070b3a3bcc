//! The sender's own attributes: one flat JSON object that travels beside the text and that filters look at.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::text::is_carried;

/// The most attributes that a message may have.
pub const MAX_ATTRIBUTES: usize = 32;

/// Why a JSON value is no attributes object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAttributes {
    /// Not an object.
    #[error("attributes are a JSON object of names to values")]
    NotAnObject,
    /// Too many.
    #[error("a message has at most {MAX_ATTRIBUTES} attributes, this one {count}")]
    TooMany {
        /// How many it has.
        count: usize,
    },
    /// A value of another kind.
    #[error("attribute {name:?}: a value is a string, a number, a boolean or a list of these")]
    Value {
        /// Whose value.
        name: String,
    },
    /// A character that cannot be carried.
    #[error("attribute {name:?}: control characters other than tab, CR and LF cannot be carried")]
    Character {
        /// Whose name or value.
        name: String,
    },
}

/// At most 32 names with strings, numbers, booleans or lists of these, in order of their names.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Value", into = "Value")]
pub struct Attributes(BTreeMap<String, Value>);

impl Attributes {
    /// Checks a JSON value.
    pub fn from_json(value: Value) -> Result<Self, InvalidAttributes> {
        let Value::Object(object) = value else { return Err(InvalidAttributes::NotAnObject) };
        if object.len() > MAX_ATTRIBUTES {
            return Err(InvalidAttributes::TooMany { count: object.len() });
        }
        for (name, value) in &object {
            check(name, value)?;
        }
        Ok(Self(object.into_iter().collect()))
    }

    /// Reads the JSON text of an object; an empty text is no attributes.
    pub fn from_json_text(text: &str) -> Result<Self, InvalidAttributes> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let value = serde_json::from_str(text).map_err(|_| InvalidAttributes::NotAnObject)?;
        Self::from_json(value)
    }

    /// The JSON text of the object, names in order.
    pub fn to_json_text(&self) -> String {
        serde_json::to_string(&self.0).expect("strings, numbers, booleans and lists are always JSON")
    }

    /// The JSON object.
    pub fn to_json(&self) -> Value {
        Value::Object(self.0.clone().into_iter().collect::<Map<_, _>>())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of `name`.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// All of them in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

fn check(name: &str, value: &Value) -> Result<(), InvalidAttributes> {
    let carried = |text: &str| match is_carried(text) {
        true => Ok(()),
        false => Err(InvalidAttributes::Character { name: name.to_owned() }),
    };
    let scalar = |value: &Value| match value {
        Value::String(text) => carried(text),
        Value::Number(_) | Value::Bool(_) => Ok(()),
        _ => Err(InvalidAttributes::Value { name: name.to_owned() }),
    };
    carried(name)?;
    match value {
        Value::Array(list) => list.iter().try_for_each(scalar),
        value => scalar(value),
    }
}

impl TryFrom<Value> for Attributes {
    type Error = InvalidAttributes;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        Self::from_json(value)
    }
}

impl From<Attributes> for Value {
    fn from(attributes: Attributes) -> Self {
        attributes.to_json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_flat() {
        assert!(Attributes::from_json(json!({"a": "x", "b": 1, "c": true, "d": ["x", 2, false]})).is_ok());
        for bad in [json!({"a": null}), json!({"a": {"b": 1}}), json!({"a": [["x"]]}), json!({"a": [null]})] {
            assert_eq!(Attributes::from_json(bad), Err(InvalidAttributes::Value { name: "a".into() }));
        }
        assert_eq!(Attributes::from_json(json!([])), Err(InvalidAttributes::NotAnObject));
        assert_eq!(
            Attributes::from_json(json!({"a": "x\u{0}"})),
            Err(InvalidAttributes::Character { name: "a".into() })
        );
        let many: Map<_, _> = (0..33).map(|n| (n.to_string(), json!(1))).collect();
        assert_eq!(Attributes::from_json(many.into()), Err(InvalidAttributes::TooMany { count: 33 }));
    }
}
