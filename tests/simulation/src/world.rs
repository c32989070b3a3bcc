//! The world of one seed: it starts the four services, lets clients and other parties loose, makes things go wrong, and
//! in the end lets everything come to rest.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tidings_domain::Result;
use tidings_memory::{Event, Memory, Options, Part, Recorder, SeededEntropy};
use tidings_runtime::shutdown::Shutdown;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinSet},
    time::Instant,
};

use crate::{
    clients::Client,
    door::Door,
    faults::{CrashSignal, Faults, Line},
    ledger::{Account, Ledger, Rows},
    mutants::Mutant,
    plan::{Plan, TOPICS, Weather},
    process::Site,
    rest,
    role::{Instance, Role},
    schedule::{Act, Schedule},
    wall::WallClock,
};

/// How long a stop may take.
const GRACE: Duration = Duration::from_secs(25);

/// How long everything may take to come to rest once nothing goes wrong any more.
const REST: Duration = Duration::from_secs(30 * 60);

/// How long the world has to be at rest.
const STILL: Duration = Duration::from_secs(4);

/// Longer than anything is kept, and how long its removal may take after that.
const RETENTION: Duration = Duration::from_secs(31 * 86_400);
const RETENTION_WORK: Duration = Duration::from_secs(150);

/// More events than any run has: something goes round in circles.
const MAX_EVENTS: usize = 400_000;

struct Process {
    life: u64,
    shutdown: Shutdown,
    tasks: Vec<AbortHandle>,
    stopping_since: Option<Instant>,
}

struct Ended {
    instance: Instance,
    life: u64,
    result: Result<()>,
}

/// The world of one seed.
pub(crate) struct World {
    site: Site,
    recorder: Recorder,
    ledger: Ledger,
    faults: Faults,
    chance: SeededEntropy,
    crashes: mpsc::UnboundedReceiver<CrashSignal>,
    processes: BTreeMap<Instance, Process>,
    running: JoinSet<Ended>,
    clients: JoinSet<()>,
    waiting: Arc<AtomicUsize>,
    schedule: Schedule,
    lives: u64,
    crashed: u64,
    phase: Phase,
    rows: Rows,
    kept: Option<Rows>,
}

/// What the world is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Things are done and go wrong.
    Busy,
    /// Nothing goes wrong any more.
    Settling,
    /// Nothing is started again.
    Ending,
}

/// A world that is over.
pub(crate) struct Over {
    /// What is to be judged.
    pub account: Account,
    /// The hash of every event.
    pub hash: u64,
    /// How long it took by its own clock.
    pub lasted: Duration,
    /// Processes that crashed.
    pub crashes: u64,
}

impl World {
    /// Lets `plan` happen, with a planted bug or without.
    pub(crate) async fn happen(plan: &Plan, mutant: Option<Mutant>) -> Over {
        let recorder = Recorder::new();
        let memory = Memory::new(Options {
            delay_ms: plan.delay_ms,
            max_publish_bytes: plan.max_publish_bytes,
            bus_lease: plan.bus_lease,
            max_returns: plan.max_returns,
            recorder: recorder.clone(),
            ..Options::new(plan.seed)
        });
        let installation = memory.catalog().installation().await;
        let secret = installation.ok().flatten().map(|installation| installation.secret);
        let chance = SeededEntropy::new(plan.seed ^ 0x5eed);
        let (sender, crashes) = mpsc::unbounded_channel();
        let faults =
            Faults::new(plan.rates.clone(), plan.max_crashes, chance.fork(), recorder.clone(), sender);
        let schedule = Schedule::draw(plan, &chance);
        let mut world = Self {
            site: Site {
                wall: WallClock::new(memory.clock()),
                memory,
                plan: plan.clone(),
                mutant,
                secret: secret.expect("a memory is provisioned from the start"),
                door: Door::default(),
            },
            ledger: Ledger::new(recorder.clone()),
            recorder,
            faults,
            chance,
            crashes,
            processes: BTreeMap::new(),
            running: JoinSet::new(),
            clients: JoinSet::new(),
            waiting: Arc::default(),
            schedule,
            lives: 0,
            crashed: 0,
            phase: Phase::Busy,
            rows: Rows::default(),
            kept: None,
        };
        let began = Instant::now();
        world.live(began).await;
        world.finish(began).await
    }

    async fn live(&mut self, began: Instant) {
        self.site.plan.instances().into_iter().for_each(|instance| self.start(instance));
        self.client(|client| async move { client.make_topic(TOPICS[1]).await });
        self.faults.set_on(true);
        while let Some(at) = self.schedule.next() {
            self.until(began + at).await;
            if self.recorder.position() > MAX_EVENTS {
                return self.ledger.fault("it goes round in circles: too many events");
            }
            if let Some(act) = self.schedule.pop() {
                self.act(act, began).await;
            }
        }
        self.settle().await;
    }

    /// Nothing goes wrong any more; waits until nothing is open.
    async fn settle(&mut self) {
        self.ledger.note("faults are off");
        self.phase = Phase::Settling;
        self.faults.set_on(false);
        self.faults.set_mail_away(false);
        for part in [Part::Bus, Part::Store, Part::Mail] {
            self.site.memory.set_away(part, false);
        }
        self.site.memory.set_blocked(false);
        let deadline = Instant::now() + REST;
        let mut still_since = None;
        loop {
            self.until(Instant::now() + Duration::from_millis(500)).await;
            let open = self.open().await;
            match (open, still_since) {
                (None, None) => still_since = Some(Instant::now()),
                (None, Some(since)) if since + STILL <= Instant::now() => break,
                (None, Some(_)) => {}
                (Some(_), _) => still_since = None,
            }
            if Instant::now() >= deadline || self.recorder.position() > MAX_EVENTS {
                let open = self.open().await.unwrap_or_default();
                self.ledger.fault(format!("not at rest in time: {open}"));
                break;
            }
        }
        self.ledger.note("at rest");
        self.clients.shutdown().await;
        self.rows = rest::rows(&self.site.memory, &[]).await;
        if self.site.plan.sees_retention {
            self.ledger.note("weeks later");
            self.site.wall.set_ahead(RETENTION);
            self.until(Instant::now() + RETENTION_WORK).await;
            let ids: Vec<_> = self.rows.items.iter().map(|item| item.message.id).collect();
            self.kept = Some(rest::rows(&self.site.memory, &ids).await);
        }
        self.phase = Phase::Ending;
        for instance in self.site.plan.instances() {
            self.stop(instance);
        }
        let end = Instant::now() + GRACE + Duration::from_secs(5);
        while !self.processes.is_empty() && Instant::now() < end {
            self.until(Instant::now() + Duration::from_millis(500)).await;
        }
    }

    /// What is still open, in words.
    async fn open(&self) -> Option<String> {
        let busy = self.clients.len().saturating_sub(self.waiting.load(Ordering::Relaxed));
        if busy > 0 {
            return Some(format!("{busy} clients"));
        }
        if self.processes.len() < self.site.plan.instances().len() {
            return Some("services that are not started again".to_owned());
        }
        rest::open(&self.site.memory).await
    }

    /// Lets everything go on until `at`.
    async fn until(&mut self, at: Instant) {
        loop {
            tokio::select! {
                biased;
                Some(signal) = self.crashes.recv() => {
                    if self.processes.get(&signal.instance).is_some_and(|process| process.life == signal.life) {
                        self.crash(&[signal.instance]).await;
                    }
                }
                Some(ended) = self.running.join_next() => self.ended(ended),
                Some(ended) = self.clients.join_next() => if let Err(error) = ended && error.is_panic() {
                    self.ledger.fault(format!("a client panicked: {error}"));
                },
                () = tokio::time::sleep_until(self.schedule.next_start().map_or(at, |start| start.min(at))) => {
                    while let Some(instance) = self.schedule.pop_start(Instant::now()) {
                        self.start(instance);
                    }
                    if Instant::now() >= at {
                        return;
                    }
                }
            }
        }
    }

    async fn act(&mut self, act: Act, began: Instant) {
        let memory = self.site.memory.clone();
        match act {
            Act::Post => self.client(|client| async move { client.post_one().await }),
            Act::Batch => self.client(|client| async move { client.post_batch().await }),
            Act::Subscribe(person) => self.client(|client| async move { client.subscribe(&person).await }),
            Act::Unsubscribe(person) => {
                self.client(|client| async move { client.unsubscribe(&person).await })
            }
            Act::Meddle => self.client(|client| async move { client.meddle().await }),
            Act::Redrive => self.client(|client| async move { client.redrive().await }),
            Act::Discard => self.client(|client| async move { client.discard().await }),
            Act::Read => self.client(|client| async move { client.read().await }),
            Act::Crash(instances) => self.crash(&instances).await,
            Act::Stop(instance) => self.stop(instance),
            Act::Away(part, lasts) => {
                self.ledger.note(format!("the {part:?} is away"));
                match part {
                    Part::Mail => self.faults.set_mail_away(true),
                    part => memory.set_away(part, true),
                }
                self.schedule.add(began.elapsed() + lasts, Act::Back(part));
            }
            Act::Back(part) => {
                self.ledger.note(format!("the {part:?} is back"));
                match part {
                    Part::Mail => self.faults.set_mail_away(false),
                    part => memory.set_away(part, false),
                }
            }
            Act::Block(lasts) => {
                self.ledger.note("the broker is blocked");
                memory.set_blocked(true);
                self.schedule.add(began.elapsed() + lasts, Act::Unblock);
            }
            Act::Unblock => {
                self.ledger.note("the broker takes again");
                memory.set_blocked(false);
            }
            Act::Unbind => {
                self.ledger.note("the bindings are gone");
                memory.unbind();
            }
            Act::Restart => {
                self.ledger.note("the servers start again");
                memory.restart();
            }
        }
    }

    fn client<F: Future<Output = ()> + Send + 'static>(&mut self, act: impl FnOnce(Arc<Client>) -> F) {
        let client = Client {
            door: self.site.door.clone(),
            ledger: self.ledger.clone(),
            memory: self.site.memory.clone(),
            waiting: Arc::clone(&self.waiting),
            chance: self.chance.fork(),
            is_calm: self.site.plan.weather != Weather::Storm,
        };
        self.clients.spawn(act(Arc::new(client)));
    }

    fn start(&mut self, instance: Instance) {
        if self.processes.contains_key(&instance) {
            return;
        }
        self.lives += 1;
        let life = self.lives;
        self.ledger.note(format!("{instance} starts"));
        let line = Line { faults: self.faults.clone(), instance, life };
        let shutdown = Shutdown::new(GRACE);
        let run = self.site.start(&line, self.chance.fork(), shutdown.clone());
        let task = self.running.spawn(async move { Ended { instance, life, result: run.await } });
        self.processes.insert(instance, Process { life, shutdown, tasks: vec![task], stopping_since: None });
    }

    /// Ends processes wherever they stand, all at once; they are started again after a while.
    async fn crash(&mut self, instances: &[Instance]) {
        let mut tasks = Vec::new();
        for instance in instances {
            let Some(process) = self.processes.remove(instance) else { continue };
            self.ledger.note(format!("{instance} crashes"));
            self.crashed += 1;
            tasks.extend(process.tasks);
            if instance.role == Role::Api {
                drop(self.site.door.close(process.life));
            }
            self.start_later(*instance);
        }
        tasks.iter().for_each(AbortHandle::abort);
        // What was dropped drops what it owned, each in its turn.
        while tasks.iter().any(|task| !task.is_finished()) {
            tokio::task::yield_now().await;
        }
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
    }

    /// Asks a process to stop; the api's requests that are under way are finished.
    fn stop(&mut self, instance: Instance) {
        let Some(process) = self.processes.get_mut(&instance) else { return };
        if process.stopping_since.is_some() {
            return;
        }
        self.ledger.note(format!("{instance} is asked to stop"));
        process.stopping_since = Some(Instant::now());
        process.shutdown.request();
        if instance.role == Role::Api {
            let (mut requests, ledger, life) =
                (self.site.door.close(process.life), self.ledger.clone(), process.life);
            let finishing = self.running.spawn(async move {
                let all = async { while requests.join_next().await.is_some() {} };
                if tokio::time::timeout(GRACE, all).await.is_err() {
                    // A client that waits for long is told so by the end of its connection.
                    ledger.note("requests are cut off at the end of the grace");
                }
                Ended { instance, life: life.wrapping_neg(), result: Ok(()) }
            });
            process.tasks.push(finishing);
        }
    }

    fn start_later(&mut self, instance: Instance) {
        let most = match self.phase {
            Phase::Busy => 8_000,
            Phase::Settling => 500,
            Phase::Ending => return,
        };
        let wait = Duration::from_millis(20 + self.chance.below(most));
        self.schedule.start_at(Instant::now() + wait, instance);
    }

    fn ended(&mut self, ended: std::result::Result<Ended, JoinError>) {
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) if error.is_panic() => {
                return self.ledger.fault(format!("a service panicked: {error}"));
            }
            Err(_) => return,
        };
        let Some(process) = self.processes.get(&ended.instance).filter(|process| process.life == ended.life)
        else {
            return;
        };
        let instance = ended.instance;
        match (process.stopping_since, ended.result) {
            (Some(since), Ok(())) => {
                let took = since.elapsed();
                self.ledger.note(format!("{instance} stopped"));
                if took > GRACE + Duration::from_secs(1) {
                    self.ledger.fault(format!("{instance} took {took:?} to stop"));
                }
            }
            (Some(_), Err(error)) => {
                self.ledger.fault(format!("{instance} was asked to stop and failed: {error}"))
            }
            (None, Ok(())) => self.ledger.fault(format!("{instance} ended without being asked to")),
            (None, Err(error)) => {
                self.ledger.note(format!("{instance} gives up: {error}"));
                if self.site.plan.weather != Weather::Storm {
                    self.ledger.fault(format!("{instance} gave up in a mere outage: {error}"));
                }
            }
        }
        self.processes.remove(&instance);
        if instance.role == Role::Api {
            drop(self.site.door.close(ended.life));
        }
        self.start_later(instance);
    }

    async fn finish(mut self, began: Instant) -> Over {
        self.running.shutdown().await;
        let hash = self.recorder.hash();
        let lasted = began.elapsed();
        let book = std::mem::take(&mut *self.ledger.lock());
        let account = Account {
            plan: self.site.plan.clone(),
            posts: book.posts,
            foreign: book.foreign,
            discarded: book.discarded,
            faults_seen: book.faults_seen,
            events: self.recorder.events(),
            rows: self.rows,
            kept: self.kept,
            faults: self.faults.counts(),
            mail_failures: self.faults.mail_failures(),
        };
        Over { account, hash, lasted, crashes: self.crashed }
    }
}

/// The text of an event, as failing seeds print it.
pub(crate) fn line(recorded: &tidings_memory::Recorded) -> String {
    let event = match &recorded.event {
        Event::World(text) => text.clone(),
        event => {
            let text = format!("{event:?}");
            if text.len() > 400 { format!("{}…", text.chars().take(400).collect::<String>()) } else { text }
        }
    };
    format!("{:>9} ms  {event}", recorded.at_ms)
}
