//! The end of life: one wish to stop, seen by everything that runs, and the time that it may take.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

/// How long stopping may take when nothing else is said.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(25);

/// The wish to stop. Clones are the same wish; it is made once and never taken back.
#[derive(Clone, Debug)]
pub struct Shutdown {
    token: CancellationToken,
    grace: Duration,
}

impl Shutdown {
    /// A wish not yet made. Whoever runs has `grace` from the wish until it is dropped.
    pub fn new(grace: Duration) -> Self {
        Self { token: CancellationToken::new(), grace }
    }

    /// A wish that follows this one and can be made alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), grace: self.grace }
    }

    /// Makes the wish.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Whether it was made.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ends when it is made, at once if it was.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// How long stopping may take.
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// What `future` comes to, or none when the wish is made before; then it is dropped.
    pub async fn cuts<T>(&self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.token.cancelled() => None,
            output = future => Some(output),
        }
    }

    /// Waits for `duration`, or less when the wish is made; false when it was made.
    pub async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.token.cancelled() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new(DEFAULT_GRACE)
    }
}
