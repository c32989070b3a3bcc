//! How many changes are not yet confirmed, for metrics.

use tidings_domain::Result;
use tidings_runtime::{metrics, shutdown::Shutdown};

use crate::Context;

/// Counts now and then until `shutdown`.
pub(crate) async fn run(context: Context, shutdown: Shutdown) -> Result<()> {
    let gauge =
        metrics::gauge(&context.telemetry.meter, metrics::CHANGES_BACKLOG, "changes not yet confirmed");
    while !shutdown.is_requested() {
        match shutdown.cuts(context.changes.backlog()).await {
            None => break,
            Some(Ok(backlog)) => gauge.record(backlog, &[]),
            Some(Err(error)) => tracing::debug!(error = error.chain(), "the backlog could not be counted"),
        }
        shutdown.sleep(context.settings.backlog_interval()).await;
    }
    Ok(())
}
