//! What the limits need.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tidings_domain::ports::{Entropy, Limits};

/// What the limits need.
#[derive(Clone)]
pub struct Options {
    /// `redis://user:password@host:6379/0` or `rediss://`.
    pub url: String,
    /// Certificates (PEM) to trust instead of the system's, for `rediss://`.
    pub ca_file: Option<PathBuf>,
    /// What prefixes every key.
    pub namespace: String,
    /// How long one call may take before the fallback answers.
    pub timeout: Duration,
    /// Who answers while Redis is away.
    pub fallback: Arc<dyn Limits>,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
}
