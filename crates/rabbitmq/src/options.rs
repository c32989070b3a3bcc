//! What the bus needs.

use std::{path::PathBuf, sync::Arc, time::Duration};

use opentelemetry::metrics::Meter;
use tidings_domain::ports::Entropy;

/// What the bus needs.
#[derive(Clone)]
pub struct Options {
    /// `amqp://user:password@host:5672/vhost` or `amqps://`. A `heartbeat` in the query is kept; without one it is 10 s.
    /// So is a `frame_max`, which bounds the headers of a message; without one it is 131,072 bytes.
    pub url: String,
    /// Certificates (PEM) to trust instead of the system's, for `amqps://`.
    pub ca_file: Option<PathBuf>,
    /// The broker's management API, `http://user:password@host:15672`: the only way to learn that a binding of ours is
    /// missing while another party's stands. Without it, bindings of what this process publishes to and consumes are declared
    /// blindly every few seconds.
    pub management_url: Option<String>,
    /// What prefixes every name.
    pub namespace: String,
    /// What the broker shows of its connections: `tidings-api` and the like.
    pub name: String,
    /// Whether topology is declared (*configure* rights), or only looked at: `topology = verify`.
    pub declares: bool,
    /// How long a publish may wait for its confirm; then its outcome is *unknown*.
    pub confirm_timeout: Duration,
    /// Publishes that may be unconfirmed at once.
    pub unconfirmed: usize,
    /// Jitter.
    pub entropy: Arc<dyn Entropy>,
    /// What its metrics are made of.
    pub meter: Meter,
}
