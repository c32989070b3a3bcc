//! Time that follows tokio's clock, and chance from a seed.

use std::sync::{Mutex, PoisonError};

use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};
use tidings_domain::{
    ports::{Clock, Entropy},
    time::Timestamp,
};
use tokio::time::Instant;

/// When simulated time begins: the start of 2030.
pub fn epoch() -> Timestamp {
    Timestamp::from_millis(1_893_456_000_000)
}

/// A wall clock that follows tokio's clock, paused or not, from [`epoch`].
#[derive(Clone, Copy, Debug)]
pub struct PausedClock {
    began: Instant,
}

impl PausedClock {
    /// A clock that says [`epoch`] now.
    pub fn new() -> Self {
        Self { began: Instant::now() }
    }
}

impl Default for PausedClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        epoch().plus(self.began.elapsed())
    }
}

/// Randomness from a seed: the same calls give the same bytes.
#[derive(Debug)]
pub struct SeededEntropy {
    generator: Mutex<ChaCha8Rng>,
}

impl SeededEntropy {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self { generator: Mutex::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// A stream of its own that depends on this one's seed and state.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self::new(self.next())
    }

    /// A number.
    pub fn next(&self) -> u64 {
        self.generator.lock().unwrap_or_else(PoisonError::into_inner).next_u64()
    }

    /// A number below `bound`; 0 when it is 0.
    pub fn below(&self, bound: u64) -> u64 {
        self.next().checked_rem(bound).unwrap_or(0)
    }

    /// Whether something of this `share` (0 never, 1 always) happens.
    pub fn happens(&self, share: f64) -> bool {
        // 53 bits are what an f64 holds exactly.
        #[expect(clippy::cast_precision_loss, reason = "53 bits are exact")]
        let drawn = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        drawn < share
    }
}

impl Entropy for SeededEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        self.generator.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(bytes);
    }
}
