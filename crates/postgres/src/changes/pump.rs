//! The task that reads: events come in, changes go to the line, positions go back.

use std::{sync::Arc, time::Duration};

use tidings_domain::{Error, ErrorKind, ports::Clock};
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    failure::{Class, Failure},
    gauges::Gauges,
    line::Line,
    reader::{Batch, Reader},
    transport::Transport,
};

/// Events of one reading.
const EVENTS: usize = 128;

/// How often the pump looks at the time.
const TICK: Duration = Duration::from_millis(250);

/// How long the last report may take beyond the status interval, when the stream is closed.
const LAST_REPORT: Duration = Duration::from_secs(1);

/// How often it is asked whether the last report was sent.
const LAST_REPORT_POLL: Duration = Duration::from_millis(5);

/// Reads one open stream.
pub(crate) struct Pump {
    pub(crate) line: Arc<Line>,
    pub(crate) transport: Box<dyn Transport>,
    pub(crate) reader: Reader,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) gauges: Arc<Gauges>,
    /// How often positions are reported.
    pub(crate) status_interval: Duration,
}

impl Pump {
    /// Reads until the stream is dropped or ends with an error, which is then the line's.
    pub(crate) async fn run(mut self) {
        let line = Arc::clone(&self.line);
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut events, mut batch) = (Vec::with_capacity(EVENTS), Batch::default());
        let mut reported_at = Instant::now();
        let mut is_asked = false;
        loop {
            let has_room = line.has_room();
            tokio::select! {
                biased;
                () = line.over.cancelled() => break,
                () = line.closing.cancelled() => {
                    self.report_last().await;
                    break;
                }
                _ = tick.tick() => line.look(),
                () = line.work.notified() => {}
                came = self.transport.next(&mut events, EVENTS), if has_room => {
                    let read = self.reader.read(&mut events, self.clock.now(), &mut batch);
                    is_asked |= batch.is_asked;
                    self.gauges.heartbeats(&mut batch.heartbeats);
                    self.gauges.ignored(&mut batch.ignored);
                    line.push(&mut batch);
                    if let Err(failure) = read.and(came) {
                        line.end(error(failure));
                        break;
                    }
                }
            }
            // A server that asks may be stopping: it waits for this.
            if is_asked || reported_at.elapsed() >= self.status_interval {
                let reportable = line.reportable().confirmed;
                if reportable > self.transport.reported() {
                    self.transport.report(reportable);
                    (reported_at, is_asked) = (Instant::now(), false);
                }
            }
        }
        self.transport.close().await;
        // Whoever still reads a stream whose store was closed hears of it.
        line.end(Error::unavailable("read the table stream: it is closed"));
    }

    /// Waits until what is confirmed is recorded and reported, within a limit: what is not comes again.
    async fn report_last(&mut self) {
        let limit = self.status_interval + LAST_REPORT;
        let _recorded_or_late = tokio::time::timeout(limit, self.line.recorded(self.line.version())).await;
        let last = self.line.reportable().confirmed;
        if last <= self.transport.reported() {
            return;
        }
        self.transport.report(last);
        let sent = async {
            while self.transport.reported() < last {
                tokio::time::sleep(LAST_REPORT_POLL).await;
            }
        };
        let _sent_or_late = tokio::time::timeout(limit, sent).await;
    }
}

/// What the end of the transport means for whoever reads.
fn error(failure: Failure) -> Error {
    match failure.class {
        Class::Missing => Error::new(
            ErrorKind::Gap,
            "read the table stream: the publication was not there when changes were made (it was made after the slot, or \
             dropped and made anew), and they cannot be read",
        )
        .with_source(failure),
        _ => failure.into_error("read the table stream"),
    }
}

#[cfg(test)]
mod tests;
