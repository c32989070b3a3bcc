//! What the limits need.

use std::{path::PathBuf, sync::Arc, time::Duration};

use opentelemetry::metrics::Meter;
use tidings_domain::ports::{Entropy, Limits};

/// What the limits need.
#[derive(Clone)]
pub struct Options {
    /// `redis://[user:password@]host[:port][/database]`, or `rediss://` for TLS.
    pub url: String,
    /// Certificates (PEM) to trust instead of the system's, for `rediss://`; beside another scheme it is *misconfigured*.
    pub ca_file: Option<PathBuf>,
    /// What prefixes every key.
    pub namespace: String,
    /// How long one call may take before the fallback answers.
    pub timeout: Duration,
    /// Who answers while Redis is away: the limits of this process.
    pub fallback: Arc<dyn Limits>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// Metrics.
    pub meter: Meter,
}
