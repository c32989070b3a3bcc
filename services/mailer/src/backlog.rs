//! What waits to be mailed, for metrics.

use std::{sync::Arc, time::Duration};

use opentelemetry::{KeyValue, metrics::Meter};
use tidings_domain::{Result, delivery::DeliveryState};
use tidings_runtime::shutdown::Shutdown;

use crate::{
    Context,
    metrics::{OPEN, OVERDUE},
};

/// How often it is counted.
const INTERVAL: Duration = Duration::from_secs(15);

/// Counts now and then until `shutdown`.
pub(crate) async fn run(context: Arc<Context>, shutdown: Shutdown) -> Result<()> {
    let meter: &Meter = &context.telemetry.meter;
    let open = meter.u64_gauge(OPEN).with_description("mails to be sent, by state").build();
    let overdue =
        meter.f64_gauge(OVERDUE).with_unit("s").with_description("since when a mail is due").build();
    let [pending, sending] = [DeliveryState::Pending, DeliveryState::Sending]
        .map(|state| [KeyValue::new("state", state.as_str())]);
    while !shutdown.is_requested() {
        let look = async {
            let counts = context.deliveries.counts().await?;
            Ok::<_, tidings_domain::Error>((counts, context.deliveries.next_due().await?))
        };
        match shutdown.cuts(look).await {
            None => break,
            Some(Ok((counts, due))) => {
                open.record(counts.pending, &pending);
                open.record(counts.sending, &sending);
                let since = due.map(|due| context.clock.now().since(due)).unwrap_or_default();
                overdue.record(since.as_secs_f64(), &[]);
            }
            Some(Err(error)) => tracing::debug!(error = error.chain(), "what waits could not be counted"),
        }
        shutdown.sleep(INTERVAL).await;
    }
    Ok(())
}
