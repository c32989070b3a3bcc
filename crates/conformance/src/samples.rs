//! Values to run behaviours with.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tidings_domain::{time::Timestamp, topic::TopicName, wire::Envelope};

/// The time at which behaviours begin; ports are told the time by their callers.
pub(crate) fn start() -> Timestamp {
    Timestamp::from_millis(1_800_000_000_000)
}

/// `seconds` after the start.
pub(crate) fn after_s(seconds: u64) -> Timestamp {
    start().plus(Duration::from_secs(seconds))
}

/// A topic's name.
pub(crate) fn topic(name: &str) -> TopicName {
    TopicName::parse(name).expect("behaviours name topics by the rule")
}

/// An envelope with this body and a header.
pub(crate) fn envelope(body: impl Into<Bytes>) -> Envelope {
    Envelope {
        headers: BTreeMap::from([("content-type".to_owned(), "text/plain".to_owned())]),
        body: body.into(),
        native_id: None,
        published_to: None,
    }
}
