//! Publishing again from the table: `tidings replay`, and the second half of `tidings recover`.

use std::{fmt::Write as _, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tidings_cdc_watcher::replay::{Ended, Progress, Recipients, Replayer, Report, Selection};
use tidings_domain::ports::{Bus, Deliveries, Items};
use tidings_runtime::{shutdown::Shutdown, telemetry::Telemetry};

use super::failure;
use crate::{chance::chance, cli::output::Failure, signals::Signals};

/// How long something may be away until the command gives up.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is published again.
pub(crate) enum Again {
    /// What is selected.
    Replay(Selection, Recipients),
    /// Everything that was never notified, once the slot stands.
    Recover,
}

/// What was wrong with the table stream, and where it goes on.
pub(crate) struct Mended {
    /// The slot's name.
    pub(crate) slot: String,
    /// What was wrong with it.
    pub(crate) was: String,
    /// Where the new one begins.
    pub(crate) begins_at: String,
}

/// What came of it.
pub(crate) struct Done {
    /// The slot that was made anew; none where it needed nothing.
    pub(crate) mended: Option<Mended>,
    /// Whether the slot was to be looked at.
    is_recovery: bool,
    report: Report,
}

/// Where items are read and notifications go.
pub(super) struct Places {
    pub(super) items: Arc<dyn Items>,
    pub(super) deliveries: Arc<dyn Deliveries>,
    pub(super) bus: Arc<dyn Bus>,
}

/// Publishes until all is done or a signal ends it.
pub(super) async fn publish(
    places: Places,
    again: Again,
    mended: Option<Mended>,
    telemetry: Telemetry,
) -> Result<Done, Failure> {
    let (clock, entropy) = chance();
    let Places { items, deliveries, bus } = places;
    let replayer = Replayer { items, deliveries, bus, clock, entropy, telemetry, patience: PATIENCE };
    let shutdown = Shutdown::default();
    let mut signals = Signals::catch().map_err(Failure::refused)?;
    let mut told = |progress: &Progress| {
        let Progress { published, skipped, waiting_for, .. } = progress;
        match waiting_for {
            Some(waits) => tracing::warn!(published, skipped, waits, "waiting"),
            None => tracing::info!(published, skipped, "published so far"),
        }
    };
    let is_recovery = matches!(again, Again::Recover);
    let work = async {
        match again {
            Again::Replay(selection, recipients) => {
                replayer.replay(selection, recipients, &mut told, &shutdown).await
            }
            Again::Recover => replayer.recover(&mut told, &shutdown).await,
        }
    };
    let mut work = std::pin::pin!(work);
    let report = tokio::select! {
        biased;
        report = work.as_mut() => report,
        _ = signals.next() => {
            shutdown.request();
            work.await
        }
    };
    Ok(Done { mended, is_recovery, report })
}

impl Done {
    /// Sentences for people.
    pub(crate) fn text(&self) -> String {
        let Progress { replay, published, skipped, refused, missing, .. } = &self.report.progress;
        let mut text = String::new();
        if let Some(Mended { slot, was, begins_at }) = &self.mended {
            let _ = writeln!(text, "the slot {slot} was made anew from {begins_at}; before: {was}");
        } else if self.is_recovery {
            text.push_str("the slot needed nothing\n");
        }
        let items = |count: u64| if count == 1 { "1 item".to_owned() } else { format!("{count} items") };
        let published = items(*published);
        let _ = match replay {
            Some(replay) => writeln!(text, "published {published} again, as replay {replay}"),
            None => {
                writeln!(text, "published {published} that were never notified; {} had been", items(*skipped))
            }
        };
        if *refused > 0 {
            let _ = writeln!(text, "the bus refused {} for good; the log names each", items(*refused));
        }
        for id in missing {
            let _ = writeln!(text, "there is no item {id}");
        }
        text
    }

    /// The same for scripts.
    pub(crate) fn json(&self) -> Value {
        let Progress { replay, published, skipped, refused, missing, reached, .. } = &self.report.progress;
        let slot = self.mended.as_ref().map(
            |Mended { slot, was, begins_at }| json!({ "name": slot, "was": was, "begins_at": begins_at }),
        );
        json!({
            "finished": matches!(self.report.ended, Ended::Finished),
            "slot": slot,
            "replay": replay,
            "published": published,
            "skipped": skipped,
            "refused": refused,
            "missing": missing,
            "reached_at": reached,
        })
    }

    /// Why it did not come to its end, with where to go on.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let go_on = self.report.progress.reached.filter(|_| !self.is_recovery).map_or_else(
            || "run it again to go on".to_owned(),
            |reached| format!("go on with --until {}", reached.plus(Duration::from_millis(1))),
        );
        match &self.report.ended {
            Ended::Finished if self.report.progress.missing.is_empty() => None,
            // Each was said.
            Ended::Finished => Some(Failure::refused("")),
            Ended::Stopped => Some(Failure::refused(format!("stopped before the end: {go_on}"))),
            Ended::GaveUp(error) => Some(failure(error).with(&format!("; {go_on}"))),
        }
    }
}
