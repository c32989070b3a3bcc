//! Whether mails can be sent now. While they cannot, nothing is claimed and no attempt is used; what is waited for is
//! said in readiness, and the server is probed with jittered back-off.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What is known of the mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It takes mails.
    Open,
    /// It answered a probe; one mail at a time until one was begun.
    Trial,
    /// It does not, for this reason.
    Away(Arc<str>),
    /// We stop.
    Stopping,
}

/// The one view of it that all share. Not a `watch` channel, which wakes those who wait in a random order.
pub(crate) struct Outage {
    mode: Mutex<Mode>,
    changed: Notify,
}

impl Outage {
    pub(crate) fn new() -> Self {
        Self { mode: Mutex::new(Mode::Open), changed: Notify::new() }
    }

    pub(crate) fn mode(&self) -> Mode {
        self.lock().clone()
    }

    /// The server does not take mails, for this reason.
    pub(crate) fn begin(&self, reason: &str) {
        self.change(|mode| match mode {
            Mode::Open | Mode::Trial => Some(Mode::Away(reason.into())),
            Mode::Away(_) | Mode::Stopping => None,
        });
    }

    /// It is still away, for this reason now.
    pub(crate) fn goes_on(&self, reason: &str) {
        self.change(|mode| matches!(mode, Mode::Away(_)).then(|| Mode::Away(reason.into())));
    }

    /// It answered a probe.
    pub(crate) fn answered(&self) {
        self.change(|mode| matches!(mode, Mode::Away(_)).then_some(Mode::Trial));
    }

    /// It took a recipient: true when that ends an outage.
    pub(crate) fn passed(&self) -> bool {
        if *self.lock() == Mode::Open {
            return false;
        }
        self.change(|mode| (*mode == Mode::Trial).then_some(Mode::Open))
    }

    /// We stop: nothing new is begun.
    pub(crate) fn stop(&self) {
        self.change(|_| Some(Mode::Stopping));
    }

    /// Begins anew.
    pub(crate) fn reset(&self) {
        self.change(|_| Some(Mode::Open));
    }

    /// Ends when nothing is to be begun (any more): an outage, or we stop.
    pub(crate) async fn nothing_begins(&self) {
        self.until(|mode| matches!(mode, Mode::Away(_) | Mode::Stopping)).await;
    }

    /// Ends when the mode is another one than `seen`.
    pub(crate) async fn changed_from(&self, seen: &Mode) {
        self.until(|mode| mode != seen).await;
    }

    /// Ends when `is` holds, which may be at once.
    async fn until(&self, is: impl Fn(&Mode) -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if is(&self.lock()) {
                return;
            }
            changed.await;
        }
    }

    fn change(&self, decide: impl FnOnce(&Mode) -> Option<Mode>) -> bool {
        let mut mode = self.lock();
        let Some(next) = decide(&mode) else { return false };
        *mode = next;
        drop(mode);
        self.changed.notify_waiters();
        true
    }

    fn lock(&self) -> MutexGuard<'_, Mode> {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
