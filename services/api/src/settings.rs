//! The api's settings. Only those that do something; the composition root reads them from the layers.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Whether requests need a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// Nobody needs one; requests of web pages of other origins are refused instead.
    Off,
    /// Every call but the pages of links in mails and the probes needs one.
    #[default]
    Required,
}

/// The key with every scope that need not be made first. It never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey(String);

impl AdminKey {
    /// From its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Its text, to be hashed.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdminKey(…)")
    }
}

impl Serialize for AdminKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

impl<'de> Deserialize<'de> for AdminKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What idempotent ids are made with, and what names on the bus begin with.
    pub namespace: String,
    /// Whether requests need a key.
    pub auth: Auth,
    /// A key with every scope.
    pub admin_key: Option<AdminKey>,
    /// Where people reach the api: `http://127.0.0.1:8080`. Its host and origin are ours.
    pub public_url: String,
    /// Other host names (`api`, `tidings.example.com`, with a port or without) under which people reach it.
    pub allowed_hosts: Vec<String>,
    /// How long one publish may take, from admission to the broker's confirm.
    pub publish_timeout_ms: u64,
    /// How long a body may take to arrive.
    pub body_timeout_ms: u64,
    /// How long a request may take in all, without what it asks to wait.
    pub request_timeout_ms: u64,
    /// The longest `?wait`.
    pub max_wait_s: u64,
    /// Requests that are handled at once, waiting ones not counted.
    pub max_concurrent_requests: usize,
    /// Requests that may wait at once (`?wait`).
    pub max_concurrent_waits: usize,
    /// NDJSON batches that are read and published at once.
    pub max_concurrent_batches: usize,
    /// Messages a second that one publisher may send over time; 0 is no limit.
    pub publish_per_second: u32,
    /// Messages that one publisher may send at once, where there is a limit.
    pub publish_burst: u32,
    /// How often the copy of topics and keys is read anew.
    pub catalog_refresh_ms: u64,
    /// How long the copy is used while the store is away.
    pub catalog_max_age_s: u64,
    /// How often topics, queues and bindings are looked at.
    pub topology_check_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "tidings".to_owned(),
            auth: Auth::default(),
            admin_key: None,
            public_url: "http://127.0.0.1:8080".to_owned(),
            allowed_hosts: Vec::new(),
            publish_timeout_ms: 10_000,
            body_timeout_ms: 10_000,
            request_timeout_ms: 30_000,
            max_wait_s: 60,
            max_concurrent_requests: 1_024,
            max_concurrent_waits: 4_096,
            max_concurrent_batches: 8,
            publish_per_second: 0,
            publish_burst: 1_000,
            catalog_refresh_ms: 3_000,
            catalog_max_age_s: 3_600,
            topology_check_ms: 5_000,
        }
    }
}

impl Settings {
    pub(crate) fn publish_timeout(&self) -> Duration {
        Duration::from_millis(self.publish_timeout_ms)
    }

    pub(crate) fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_timeout_ms)
    }

    pub(crate) fn request_timeout(&self) -> Duration {
        Duration::from_millis(self.request_timeout_ms)
    }

    pub(crate) fn max_wait(&self) -> Duration {
        Duration::from_secs(self.max_wait_s)
    }

    pub(crate) fn catalog_refresh(&self) -> Duration {
        Duration::from_millis(self.catalog_refresh_ms)
    }

    pub(crate) fn catalog_max_age(&self) -> Duration {
        Duration::from_secs(self.catalog_max_age_s)
    }

    pub(crate) fn topology_check(&self) -> Duration {
        Duration::from_millis(self.topology_check_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_admin_key_never_prints() {
        let settings = Settings { admin_key: Some(AdminKey::new("hush")), ..Settings::default() };
        assert!(!format!("{settings:?}").contains("hush"));
        assert!(!serde_json::to_string(&settings).unwrap().contains("hush"));
    }

    #[test]
    fn an_unknown_setting_is_a_fault() {
        assert!(serde_json::from_str::<Settings>(r#"{"max_wait": 1}"#).is_err());
        assert_eq!(serde_json::from_str::<Settings>("{}").unwrap(), Settings::default());
    }
}
