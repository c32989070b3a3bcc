use crate::time::Timestamp;

/// The wall clock. Waits use tokio's timers, not this.
pub trait Clock: Send + Sync {
    /// The time now.
    fn now(&self) -> Timestamp;
}

/// Randomness for ids, tokens and jitter: all of them are pure functions of this and the clock.
pub trait Entropy: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}
