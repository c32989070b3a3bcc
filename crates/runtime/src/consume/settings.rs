use std::time::Duration;

use tidings_domain::backoff::Backoff;

/// Limits and waits of a consume loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumeSettings {
    /// Unsettled messages that the bus may assign at once; what is handled, waits for its turn or for its next attempt
    /// is among them.
    pub prefetch: usize,
    /// The most entries of one handler call.
    pub batch: usize,
    /// Handler calls under way at once.
    pub concurrency: usize,
    /// How long a message may wait for its batch to fill while other calls are under way, or after a batch that tells of
    /// more to come. Else it is handled at once.
    pub linger: Duration,
    /// Failed attempts of one message before it is a dead letter, at least 1.
    pub attempts: u32,
    /// The waits between attempts.
    pub backoff: Backoff,
    /// The waits between probes while nothing can be tried, and between attempts to open the queue.
    pub probe: Backoff,
}

impl Default for ConsumeSettings {
    fn default() -> Self {
        Self {
            prefetch: 1024,
            batch: 128,
            concurrency: 4,
            linger: Duration::from_millis(10),
            attempts: 5,
            backoff: Backoff { first: Duration::from_millis(200), most: Duration::from_secs(5) },
            probe: Backoff { first: Duration::from_millis(250), most: Duration::from_secs(10) },
        }
    }
}
