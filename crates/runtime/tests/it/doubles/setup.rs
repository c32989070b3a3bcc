use std::{sync::Arc, time::Duration};

use tidings_domain::{
    Result,
    backoff::Backoff,
    dead_letter::DeadLetterSource,
    ports::{Clock, Entropy, Queue},
    time::Timestamp,
};
use tidings_runtime::{
    consume::{ConsumeLoop, ConsumeSettings},
    health::{Health, PartState},
    shutdown::Shutdown,
    telemetry::Telemetry,
};
use tokio::task::JoinSet;

use super::{Script, TestBus, TestLetters};

pub(crate) const LEASE: Duration = Duration::from_secs(30);

/// It is always the same time.
pub(crate) struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(1_764_000_000_000)
    }
}

/// Every wait is the whole of its back-off.
pub(crate) struct FixedEntropy;

impl Entropy for FixedEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        bytes.fill(0xff);
    }
}

/// A consume loop on doubles.
pub(crate) struct Setup {
    pub(crate) bus: TestBus,
    pub(crate) letters: TestLetters,
    pub(crate) settings: ConsumeSettings,
    pub(crate) health: Health,
    pub(crate) telemetry: Telemetry,
    pub(crate) shutdown: Shutdown,
}

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with_lease(Some(LEASE))
    }

    pub(crate) fn with_lease(lease: Option<Duration>) -> Self {
        let bus = TestBus::new(lease);
        let letters = TestLetters::noting_in(&bus);
        let settings = ConsumeSettings {
            prefetch: 100,
            batch: 8,
            concurrency: 2,
            linger: Duration::from_millis(2),
            attempts: 5,
            backoff: Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5) },
            probe: Backoff { first: Duration::from_millis(200), most: Duration::from_secs(10) },
        };
        Self {
            bus,
            letters,
            settings,
            health: Health::new(),
            telemetry: Telemetry::none(),
            shutdown: Shutdown::new(Duration::from_secs(10)),
        }
    }

    /// Starts the loop in `tasks`.
    pub(crate) fn start(&self, handler: &Arc<Script>, tasks: &mut JoinSet<Result<()>>) {
        let consume = ConsumeLoop {
            name: "test",
            bus: Arc::new(self.bus.clone()),
            queue: Queue::Items,
            source: DeadLetterSource::Items,
            handler: Arc::<Script>::clone(handler),
            dead_letters: Arc::new(self.letters.clone()),
            clock: Arc::new(FixedClock),
            entropy: Arc::new(FixedEntropy),
            settings: self.settings.clone(),
            part: self.health.part("test"),
            telemetry: self.telemetry.clone(),
        };
        tasks.spawn(consume.run(self.shutdown.clone()));
    }

    /// What the loop's part says.
    pub(crate) fn part(&self) -> PartState {
        self.health.report().parts["test"].clone()
    }

    /// Asks the loop to stop and waits until it has.
    pub(crate) async fn stop(&self, tasks: &mut JoinSet<Result<()>>) {
        self.shutdown.request();
        let ended = tokio::time::timeout(Duration::from_secs(60), tasks.join_next()).await;
        ended.expect("the loop does not stop").expect("a loop").expect("no panic").expect("Ok");
    }
}
