//! One open stream: reads, publishes several batches at once, confirms in order.

use std::{sync::Arc, time::Duration};

use tidings_domain::{
    Error, ErrorKind, Result,
    ports::{Captured, ChangeStream, Position},
};
use tidings_runtime::shutdown::Shutdown;
use tokio::time::Instant;

use crate::{Settings, flow::Flow, publish::Publisher};

/// How long one read waits for a first change.
const READ_WAIT: Duration = Duration::from_secs(20);

/// An empty answer within this time is one too early; so many in a row end the stream.
const EMPTY_TOO_EARLY: Duration = Duration::from_millis(50);
const EMPTY_ANSWERS: u32 = 3;

/// Confirms that may fail in a row before the stream is opened anew.
const CONFIRM_FAILURES: u32 = 3;

/// The state of one open stream.
pub(crate) struct Session {
    stream: Box<dyn ChangeStream>,
    flow: Flow,
    retry: Duration,
    confirm_failures: u32,
    empty_answers: u32,
    /// Whether anything was confirmed.
    pub(crate) progress: bool,
}

/// What is to be done with the stream next.
enum Step {
    Stop,
    Confirm,
    Begin { captured: Vec<Captured>, early: bool },
}

impl Session {
    pub(crate) fn new(publisher: Arc<Publisher>, settings: &Settings, stream: Box<dyn ChangeStream>) -> Self {
        Self {
            flow: Flow::new(publisher, stream.hold(), settings.clone()),
            stream,
            retry: settings.backoff().first,
            confirm_failures: 0,
            empty_answers: 0,
            progress: false,
        }
    }

    /// Runs until `shutdown`: Ok then, with everything confirmed that was published. An error ends the stream; what was
    /// published and not confirmed is captured and published once more, which the mail's key makes harmless.
    pub(crate) async fn run(&mut self, shutdown: &Shutdown) -> Result<()> {
        loop {
            match self.step(shutdown).await? {
                Step::Stop => break,
                Step::Confirm => self.confirm().await?,
                Step::Begin { captured, early } => self.captured(captured, early, shutdown)?,
            }
        }
        // What is under way is finished: a publish that is cut off is one that is made twice.
        self.flow.all_ended().await?;
        self.confirm().await
    }

    /// Waits for what is to be done with the stream. One read waits as long as nothing else is, whatever is published
    /// meanwhile: a read begun anew costs the store a query.
    async fn step(&mut self, shutdown: &Shutdown) -> Result<Step> {
        let Self { stream, flow, .. } = self;
        let began = Instant::now();
        let next = stream.next(flow.batch(), READ_WAIT);
        tokio::pin!(next);
        loop {
            let (confirm_at, has_room) = (flow.confirm_at(), flow.has_room());
            tokio::select! {
                biased;
                () = shutdown.requested() => return Ok(Step::Stop),
                ended = flow.one_ended() => ended?,
                () = until(confirm_at) => return Ok(Step::Confirm),
                captured = &mut next, if has_room => {
                    return Ok(Step::Begin { captured: captured?, early: began.elapsed() < EMPTY_TOO_EARLY });
                }
            }
        }
    }

    fn captured(&mut self, captured: Vec<Captured>, early: bool, shutdown: &Shutdown) -> Result<()> {
        if !captured.is_empty() {
            self.empty_answers = 0;
            self.flow.begin(captured, shutdown);
            return Ok(());
        }
        self.empty_answers = if early { self.empty_answers + 1 } else { 0 };
        match self.empty_answers {
            EMPTY_ANSWERS.. => Err(Error::unavailable("the table stream is empty for good")),
            _ => Ok(()),
        }
    }

    /// Moves the stream's position past all that is published without a hole before it. Publishes go on meanwhile.
    async fn confirm(&mut self) -> Result<()> {
        let positions = self.flow.take_reached();
        for position in &positions {
            if let Err(error) = self.confirm_one(*position).await {
                return self.not_confirmed(positions, error);
            }
        }
        self.confirm_failures = 0;
        self.progress |= !positions.is_empty();
        Ok(())
    }

    async fn confirm_one(&mut self, position: Position) -> Result<()> {
        let Self { stream, flow, .. } = self;
        let confirming = stream.confirm(position);
        tokio::pin!(confirming);
        loop {
            tokio::select! {
                biased;
                result = &mut confirming => return result,
                ended = flow.one_ended() => ended?,
            }
        }
    }

    /// A confirm whose answer was lost, or that had no effect, may be made again.
    fn not_confirmed(&mut self, positions: Vec<Position>, error: Error) -> Result<()> {
        self.confirm_failures += 1;
        let repeatable = matches!(error.kind, ErrorKind::Transient | ErrorKind::Unknown);
        if !repeatable || self.confirm_failures >= CONFIRM_FAILURES {
            return Err(error);
        }
        tracing::warn!(error = error.chain(), "the stream's position could not be confirmed");
        self.flow.give_back(positions, self.retry);
        Ok(())
    }
}

/// Waits until `when`; for ever when there is no such time.
async fn until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when).await,
        None => std::future::pending().await,
    }
}
