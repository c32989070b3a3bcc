//! Retention: small paced steps by one elected worker.

use std::{sync::Arc, time::Duration};

use opentelemetry::metrics::{Counter, Gauge};
use tidings_domain::{
    Result,
    backoff::Backoff,
    ports::{Clock, Entropy, Expired, Items},
};
use tidings_runtime::{
    health::{LastingFault, Part, PartState},
    metrics,
    shutdown::Shutdown,
};

use crate::{Context, Settings};

/// Removes what is past retention.
pub(crate) struct Retention {
    items: Arc<dyn Items>,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    settings: Settings,
    part: Part,
    removed: Counter<u64>,
    open: Gauge<u64>,
}

impl Retention {
    pub(crate) fn new(context: &Context) -> Self {
        let meter = &context.telemetry.meter;
        Self {
            items: Arc::clone(&context.items),
            clock: Arc::clone(&context.clock),
            entropy: Arc::clone(&context.entropy),
            settings: context.settings.clone(),
            part: context.health.part("subscriber: retention"),
            removed: metrics::counter(meter, metrics::RETENTION_REMOVED, "items removed past retention"),
            open: metrics::gauge(meter, metrics::RETENTION_OPEN, "items past retention that are open"),
        }
    }

    /// Steps until `shutdown`. A failed step is repeated with back-off: it removes whole items or nothing.
    pub(crate) async fn run(self, shutdown: Shutdown) -> Result<()> {
        let mut failures = 0_u32;
        let mut fault = LastingFault::default();
        while !shutdown.is_requested() {
            let before = self.clock.now().minus(self.settings.retention());
            let step = self.items.expire(before, self.settings.retention_batch.max(1));
            let wait = match shutdown.cuts(step).await {
                None => break,
                Some(Ok(expired)) => {
                    failures = 0;
                    fault.ended();
                    self.removed.add(expired.removed, &[]);
                    self.open.record(expired.open, &[]);
                    self.part.set(state(&expired, self.settings.retention_days));
                    self.wait_after(&expired)
                }
                Some(Err(error)) => {
                    failures = failures.saturating_add(1);
                    // Which logs it: once, while it lasts.
                    self.part.degraded(fault.reason(&error));
                    self.settings.probe().wait(failures, &*self.entropy)
                }
            };
            shutdown.sleep(wait).await;
        }
        Ok(())
    }

    fn wait_after(&self, expired: &Expired) -> Duration {
        if expired.more && !expired.standing_by {
            return Duration::from_millis(self.settings.retention_pause_ms.max(1));
        }
        let whole = Duration::from_secs(self.settings.retention_interval_s.max(1));
        Backoff { first: whole, most: whole }.wait(1, &*self.entropy)
    }
}

/// What readiness shows after a step.
fn state(expired: &Expired, days: u32) -> PartState {
    match expired {
        Expired { standing_by: true, .. } => PartState::StandingBy,
        Expired { open: 0, .. } => PartState::Up,
        Expired { open, .. } => PartState::Degraded(format!(
            "{open} items older than {days} days are kept: they were not expanded, or something of theirs is open"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_open_past_retention_is_named() {
        let expired = Expired { removed: 1, open: 2, more: false, standing_by: false };
        assert!(matches!(state(&expired, 30), PartState::Degraded(reason) if reason.starts_with("2 items")));
        assert_eq!(state(&Expired::default(), 30), PartState::Up);
        assert_eq!(state(&Expired { standing_by: true, ..expired }, 30), PartState::StandingBy);
    }
}
