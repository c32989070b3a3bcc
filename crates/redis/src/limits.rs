//! `Limits`.

use std::sync::Arc;

use tidings_domain::{
    Result,
    ports::{Dependency, Limits},
};

use crate::options::Options;

/// Limits on one Redis, or on the fallback while it is away.
pub struct RedisLimits {
    _options: Options,
}

impl RedisLimits {
    /// Reads the options. Connects when it is first asked, and again in the background whenever it has to: Redis may be
    /// down. Needs a tokio runtime.
    ///
    /// *Misconfigured*: the URL or a file that it names cannot be read; the context never holds the password.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self { _options: options })
    }

    /// The port.
    pub fn limits(&self) -> Arc<dyn Limits> {
        todo!("limits")
    }

    /// `redis`: up, or degraded with its reason; never down, since nothing is lost without it.
    pub fn dependency(&self) -> Arc<dyn Dependency> {
        todo!("dependency")
    }
}
