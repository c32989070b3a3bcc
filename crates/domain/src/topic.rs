//! Topics: names that people publish to and subscribe to.

use serde::{Deserialize, Serialize};

use crate::{text::Subject, time::Timestamp};

/// The topic that always exists.
pub const MESSAGES: &str = "messages";

/// A topic's name: `[a-z][a-z0-9-]{0,39}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TopicName(std::sync::Arc<str>);

/// Why a text is no topic name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a topic name is 1 to 40 characters: a lower-case letter, then lower-case letters, digits or hyphens"
)]
pub struct InvalidTopicName;

impl TopicName {
    /// Checks `name` against the rule.
    pub fn parse(name: &str) -> Result<Self, InvalidTopicName> {
        let mut bytes = name.bytes();
        let first = bytes.next().ok_or(InvalidTopicName)?;
        let rest = bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if first.is_ascii_lowercase() && rest && name.len() <= 40 {
            Ok(Self(name.into()))
        } else {
            Err(InvalidTopicName)
        }
    }

    /// The topic `messages`.
    pub fn messages() -> Self {
        Self(MESSAGES.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TopicName {
    type Error = InvalidTopicName;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::parse(&name)
    }
}

impl From<TopicName> for String {
    fn from(name: TopicName) -> Self {
        name.0.to_string()
    }
}

impl std::fmt::Display for TopicName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic as the catalog keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topic {
    /// Its name, which never changes.
    pub name: TopicName,
    /// The subject of mails whose message has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// When it was made.
    pub created_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rule() {
        for good in ["a", "messages", "order-paid", "a0", &"a".repeat(40)] {
            assert!(TopicName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "0a", "-a", "Orders", "a_b", "a.b", "ä", "a b", &"a".repeat(41)] {
            assert!(TopicName::parse(bad).is_err(), "{bad}");
        }
    }
}
