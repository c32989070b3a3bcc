//! Ids: UUIDs, version 7 where we make them, derived where a promise says so, any version where others made them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    ports::{Clock, Entropy},
    topic::TopicName,
};

/// The namespace of ids derived from other publishers' message ids (promise: the same foreign id is the same message).
pub const FOREIGN_NAMESPACE: Uuid = Uuid::from_u128(0x7469_6469_6e67_5000_a000_666f_7265_6967);

/// A new version 7 UUID (RFC 9562): ordered by time, unique by 74 random bits.
pub fn new_v7(clock: &dyn Clock, entropy: &dyn Entropy) -> Uuid {
    let mut random = [0; 10];
    entropy.fill(&mut random);
    let millis = u64::try_from(clock.now().as_millis()).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new version 7 id.
            pub fn new(clock: &dyn Clock, entropy: &dyn Entropy) -> Self {
                Self(new_v7(clock, entropy))
            }

            /// Reads any UUID text form.
            pub fn parse(text: &str) -> Option<Self> {
                Uuid::parse_str(text).ok().map(Self)
            }

            /// The UUID itself.
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// The id of a message and of its item: one row for ever.
    MessageId
}
id! {
    /// The id of a subscription, one per (topic, address).
    SubscriptionId
}
id! {
    /// The id of a dead letter.
    DeadLetterId
}
id! {
    /// The id of an API key.
    ApiKeyId
}

impl MessageId {
    /// UUIDv5 of [`FOREIGN_NAMESPACE`] over `topic`, a NUL and the publisher's own message id.
    pub fn foreign(topic: &TopicName, message_id: &str) -> Self {
        let name = [topic.as_str().as_bytes(), &[0], message_id.as_bytes()].concat();
        Self(Uuid::new_v5(&FOREIGN_NAMESPACE, &name))
    }

    /// UUIDv8 of SHA-256 over (namespace, publisher, topic, idempotency key), each field preceded by its length.
    pub fn idempotent(namespace: &str, publisher: &str, topic: &TopicName, key: &str) -> Self {
        let mut hash = Sha256::new();
        for field in [namespace, publisher, topic.as_str(), key] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.finalize()[..16]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(name: &str) -> TopicName {
        TopicName::parse(name).unwrap()
    }

    #[test]
    fn an_idempotent_id_depends_on_every_field_and_on_where_it_ends() {
        let id = MessageId::idempotent("tidings", "admin", &topic("messages"), "k1");
        assert_eq!(id, MessageId::idempotent("tidings", "admin", &topic("messages"), "k1"));
        assert_eq!(id.0.get_version_num(), 8);
        assert_ne!(id, MessageId::idempotent("tidings", "adminm", &topic("essages"), "k1"));
        assert_ne!(id, MessageId::idempotent("tidings", "other", &topic("messages"), "k1"));
    }

    #[test]
    fn a_foreign_id_is_version_5_and_stable() {
        let id = MessageId::foreign(&topic("messages"), "abc");
        assert_eq!(id.0.get_version_num(), 5);
        assert_eq!(id, MessageId::foreign(&topic("messages"), "abc"));
        assert_ne!(id, MessageId::foreign(&topic("orders"), "abc"));
    }
}
