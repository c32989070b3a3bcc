//! Both connections, and what hangs on them.

use std::sync::Arc;

use tidings_domain::{
    Result,
    ports::{Bus, Dependency, Topology},
};

use crate::options::Options;

/// One broker. Its ports may outlive it; they answer *unavailable* once it is closed.
pub struct RabbitMq {
    _options: Options,
}

impl RabbitMq {
    /// Reads the options. Connects in the background, again for as long as it lives: the broker may be down. Needs a tokio
    /// runtime.
    ///
    /// *Misconfigured*: the URL or a file that it names cannot be read; the context never holds the password.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self { _options: options })
    }

    /// Publishing and consuming.
    pub fn bus(&self) -> Arc<dyn Bus> {
        todo!("bus")
    }

    /// Exchanges, queues and bindings.
    pub fn topology(&self) -> Arc<dyn Topology> {
        todo!("topology")
    }

    /// `rabbitmq`: connected, blocked by an alarm, or away and why.
    pub fn dependency(&self) -> Arc<dyn Dependency> {
        todo!("dependency")
    }

    /// Waits for confirms under way, as long as they may take, and closes both connections. To be called before the runtime
    /// ends.
    pub async fn close(&self) {
        todo!("close")
    }
}
