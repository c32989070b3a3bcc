//! Back-off with full jitter: every retry in Tidings has a limit, a jitter and a place to end.

use std::time::Duration;

use crate::ports::Entropy;

/// Doubling waits from `first` up to `most`, each jittered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The wait before the second attempt.
    pub first: Duration,
    /// The longest wait.
    pub most: Duration,
}

impl Backoff {
    /// The wait after `attempt` failures (1 is the first): between half and the whole of the doubled wait.
    pub fn wait(&self, attempt: u32, entropy: &dyn Entropy) -> Duration {
        let doublings = attempt.saturating_sub(1).min(32);
        let whole = self.first.saturating_mul(2_u32.saturating_pow(doublings)).min(self.most);
        let mut random = [0; 4];
        entropy.fill(&mut random);
        let share = f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX);
        whole.mul_f64(0.5 + share / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Full;

    impl Entropy for Full {
        fn fill(&self, bytes: &mut [u8]) {
            bytes.fill(0xff);
        }
    }

    #[test]
    fn doubles_up_to_its_limit() {
        let backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(1) };
        let waits: Vec<_> = (1..=6).map(|attempt| backoff.wait(attempt, &Full).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.wait(u32::MAX, &Full), Duration::from_secs(1));
    }
}
