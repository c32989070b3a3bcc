//! Supervision: a loop that ends or panics is started again with back-off; one that keeps dying ends the whole with its
//! reason. No loop ends in silence.

use std::{collections::VecDeque, future::Future, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use tidings_domain::{Error, ErrorKind, Result, backoff::Backoff, ports::Entropy};
use tokio::{task::JoinSet, time::Instant};

use crate::shutdown::Shutdown;

/// When a loop is given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SupervisorSettings {
    /// The waits before a restart, by how often it died within the window.
    pub backoff: Backoff,
    /// So many deaths within the window end the whole.
    pub deaths: u32,
    /// The window.
    pub window: Duration,
}

impl Default for SupervisorSettings {
    fn default() -> Self {
        Self {
            backoff: Backoff { first: Duration::from_millis(500), most: Duration::from_secs(30) },
            deaths: 6,
            window: Duration::from_secs(300),
        }
    }
}

type Factory = Arc<dyn Fn(Shutdown) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// Named loops that are kept running together.
pub struct Supervisor {
    entropy: Arc<dyn Entropy>,
    settings: SupervisorSettings,
    loops: Vec<(&'static str, Factory)>,
}

impl Supervisor {
    /// None yet.
    pub fn new(entropy: Arc<dyn Entropy>) -> Self {
        Self { entropy, settings: SupervisorSettings::default(), loops: Vec::new() }
    }

    /// With other limits.
    #[must_use]
    pub fn with(mut self, settings: SupervisorSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds a loop: `make` is called for its first life and for every restart. It should end only when its shutdown is
    /// requested, with Ok.
    #[must_use]
    pub fn loop_<F, L>(mut self, name: &'static str, make: F) -> Self
    where
        F: Fn(Shutdown) -> L + Send + Sync + 'static,
        L: Future<Output = Result<()>> + Send + 'static,
    {
        self.loops.push((name, Arc::new(move |shutdown| make(shutdown).boxed())));
        self
    }

    /// Runs all of them until `shutdown` was requested and all have ended (or the grace period has): Ok then. An error
    /// names the loop that kept dying; the others were asked to stop before it is returned. Dropped, it drops
    /// everything.
    pub async fn run(self, shutdown: Shutdown) -> Result<()> {
        let own = shutdown.child();
        let mut tasks = JoinSet::new();
        for (name, make) in self.loops {
            tasks.spawn(keep_running(
                name,
                make,
                self.settings.clone(),
                Arc::clone(&self.entropy),
                own.clone(),
            ));
        }
        let mut failed = None;
        loop {
            tokio::select! {
                biased;
                ended = tasks.join_next() => match ended {
                    None => break,
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => {
                        failed.get_or_insert(error);
                        own.request();
                    }
                    Some(Err(error)) => {
                        let context = "a supervising task ended by itself";
                        failed.get_or_insert(Error::transient(context).with_source(error));
                        own.request();
                    }
                },
                () = grace_ended(&own) => {
                    tracing::warn!(loops = tasks.len(), "loops still running at the end of the grace period are dropped");
                    break;
                }
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

async fn grace_ended(shutdown: &Shutdown) {
    shutdown.requested().await;
    tokio::time::sleep(shutdown.grace()).await;
}

async fn keep_running(
    name: &'static str,
    make: Factory,
    settings: SupervisorSettings,
    entropy: Arc<dyn Entropy>,
    shutdown: Shutdown,
) -> Result<()> {
    let mut deaths = VecDeque::new();
    loop {
        let life = AssertUnwindSafe(async { make(shutdown.clone()).await });
        let error = match life.catch_unwind().await {
            Ok(Ok(())) if shutdown.is_requested() => return Ok(()),
            Ok(Ok(())) => Error::transient("it ended without being asked to"),
            Ok(Err(error)) => error,
            Err(panic) => Error::transient(format!("it panicked: {}", panic_text(&*panic))),
        };
        if shutdown.is_requested() {
            tracing::warn!(name, error = error.chain(), "a loop failed while stopping");
            return Ok(());
        }
        match after_death(&mut deaths, Instant::now(), &settings) {
            Some(count) => {
                let wait = settings.backoff.wait(count, &*entropy);
                tracing::error!(
                    name,
                    error = error.chain(),
                    ?wait,
                    count,
                    "a loop ended and is started again"
                );
                if !shutdown.sleep(wait).await {
                    return Ok(());
                }
            }
            None => {
                tracing::error!(name, error = error.chain(), "a loop keeps dying and is given up");
                let context = format!("the loop `{name}` died {} times in a row", settings.deaths);
                return Err(Error::new(given_up_as(error.kind), context).with_source(error));
            }
        }
    }
}

/// Counts a death at `now`; how many there are within the window, or none when they are too many.
fn after_death(deaths: &mut VecDeque<Instant>, now: Instant, settings: &SupervisorSettings) -> Option<u32> {
    deaths.push_back(now);
    while deaths.front().is_some_and(|first| now.duration_since(*first) > settings.window) {
        deaths.pop_front();
    }
    let count = u32::try_from(deaths.len()).unwrap_or(u32::MAX);
    (count < settings.deaths).then_some(count)
}

fn given_up_as(kind: ErrorKind) -> ErrorKind {
    match kind {
        ErrorKind::Unknown | ErrorKind::LeaseLost => ErrorKind::Transient,
        kind => kind,
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn deaths_count_within_the_window_only() {
        let settings =
            SupervisorSettings { deaths: 3, window: Duration::from_secs(10), ..Default::default() };
        let mut deaths = VecDeque::new();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(after_death(&mut deaths, at(0), &settings), Some(1));
        assert_eq!(after_death(&mut deaths, at(9), &settings), Some(2));
        assert_eq!(after_death(&mut deaths, at(12), &settings), Some(2));
        assert_eq!(after_death(&mut deaths, at(13), &settings), None);
    }
}
