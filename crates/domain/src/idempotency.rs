//! Idempotency keys: the same key is the same message; another body under it is told apart by its fingerprint.

use sha2::{Digest, Sha256};

use crate::{message::Message, text::is_carried};

/// The longest `Idempotency-Key`, in bytes.
pub const MAX_KEY_BYTES: usize = 255;

/// How long a fingerprint is remembered.
pub const REMEMBERED: std::time::Duration = std::time::Duration::from_secs(24 * 60 * 60);

/// SHA-256 over topic, subject, type, text and attributes; never over time or trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of what `message` says.
    pub fn of(message: &Message) -> Self {
        let mut hash = Sha256::new();
        let subject = message.subject.as_ref().map_or("", |subject| subject.as_str());
        let attributes = message.attributes.to_json_text();
        let fields =
            [message.topic.as_str(), subject, &message.content_type, message.text.as_str(), &attributes];
        for field in fields {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        Self(hash.finalize().into())
    }
}

/// Whether `key` may be an `Idempotency-Key`: 1 to 255 bytes that can be carried.
pub fn is_key(key: &str) -> bool {
    !key.is_empty() && key.len() <= MAX_KEY_BYTES && is_carried(key)
}
