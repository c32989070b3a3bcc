//! Opening the table stream, again and again, and what its errors mean.

use std::{sync::Arc, time::Duration};

use tidings_domain::{Error, ErrorKind, Result, ports::ChangeStream};
use tidings_runtime::{
    health::{LastingFault, Part, PartState},
    metrics,
    shutdown::Shutdown,
};

use crate::{Context, publish::Publisher, session::Session};

/// How often it is asked what an opening waits for.
const LOOK: Duration = Duration::from_millis(250);

/// Watches until `shutdown`: Ok after that.
pub(crate) async fn run(context: Context, shutdown: Shutdown) -> Result<()> {
    let part = context.health.part("cdc-watcher: changes");
    let publisher = Arc::new(Publisher::new(&context, part.clone()));
    let gap = metrics::gauge(&context.telemetry.meter, metrics::CHANGES_GAP, "1 while the stream has a gap");
    let backoff = context.settings.backoff();
    let mut failures = 0_u32;
    let mut fault = LastingFault::default();
    while !shutdown.is_requested() {
        let error = match open(&context, &part, &shutdown).await {
            None => break,
            Some(Ok(stream)) => {
                gap.record(0, &[]);
                part.up();
                fault.ended();
                let mut session = Session::new(Arc::clone(&publisher), &context.settings, stream);
                let ended = session.run(&shutdown).await;
                if session.progress {
                    failures = 0;
                }
                match ended {
                    Ok(()) => break,
                    Err(error) => error,
                }
            }
            Some(Err(error)) => error,
        };
        if shutdown.is_requested() {
            tracing::warn!(error = error.chain(), "the table stream ended while stopping");
            break;
        }
        failures = failures.saturating_add(1);
        let wait = match error.kind {
            ErrorKind::Gap => {
                gap.record(1, &[]);
                part.set(PartState::Stopped(gap_reason(&error)));
                context.settings.gap_retry()
            }
            _ => {
                // Said in the log by the part, once for as long as it is the same.
                part.waiting(format!("the table stream: {}", fault.reason(&error)));
                backoff.wait(failures, &*context.entropy)
            }
        };
        shutdown.sleep(wait).await;
    }
    Ok(())
}

/// Opens the stream, or none at shutdown. While another holds it, its part stands by; while the store does not answer, it
/// does not.
async fn open(context: &Context, part: &Part, shutdown: &Shutdown) -> Option<Result<Box<dyn ChangeStream>>> {
    let opening = shutdown.cuts(context.changes.open());
    tokio::pin!(opening);
    let mut stood_by = false;
    loop {
        if let Ok(opened) = tokio::time::timeout(LOOK, &mut opening).await {
            return opened;
        }
        let stands_by = context.changes.is_standing_by();
        match (stood_by, stands_by) {
            (false, true) => part.set(PartState::StandingBy),
            (true, false) => part.waiting("the table stream: nobody is known to read it now"),
            _ => {}
        }
        stood_by = stands_by;
    }
}

fn gap_reason(error: &Error) -> String {
    format!("{error}: nothing is skipped and nothing is published until `tidings recover` was run")
}
