//! Opening the stream: who we are, whether the slot is ours and whole, and whether another reads it.

use std::sync::Arc;

use tidings_domain::{
    Error, Result,
    backoff::Backoff,
    ports::{ChangeStream, DependencyState},
};
use tokio::time::{Duration, Instant, sleep};

use super::{
    SlotStream,
    failure::{Class, Failure},
    identity::{Facts, GapReason, Verdict, inspect, judge},
    keeper::{self, Holder, Keeper, Place},
    line::{Limits, Line},
    lsn::Lsn,
    pgwire::PgwireConnector,
    plain::Plain,
    provision::checked,
    pump::Pump,
    reader::{Reader, Source},
    transport::{Connector, Gate, Identity, Transport},
};
use crate::{
    fault::{self, Call},
    store::Shared,
};

/// How long an outage is waited out in here: whoever opens hears of a longer one, since it waits in its own way.
const PATIENCE: Duration = Duration::from_millis(1500);

const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_millis(500) };

/// The first wait of a standby; it doubles up to the poll: whoever reads the slot may be ending just now.
const FIRST_POLL: Duration = Duration::from_millis(20);

/// A slot that seems to have been moved is looked at again: our row and the slot are not read at one instant, and who holds
/// it may have confirmed in between.
const SECOND_LOOK: Duration = Duration::from_millis(500);

/// What is between a connection and its stream.
struct Ready {
    gate: Box<dyn Gate>,
    identity: Identity,
    history: Vec<(u32, Lsn)>,
    facts: Facts,
}

/// What an opening knows of its attempts so far.
struct Tries {
    /// The next wait for another who reads the slot.
    poll: Duration,
    /// Since when nothing but trouble was met.
    away_since: Option<Instant>,
    /// The server's process of our last attempt that had the slot: it may end a little later than we let go.
    last_walsender: Option<i32>,
}

impl Tries {
    /// Another reads the slot: it is well, and we wait.
    async fn stand_by(&mut self, shared: &Shared) {
        shared.stream.health.set(DependencyState::StandingBy);
        self.away_since = None;
        sleep(self.poll).await;
        self.poll = (self.poll * 2).min(shared.options.stream.standby_poll);
    }
}

/// What one attempt came to.
enum Attempt {
    Open(Box<dyn ChangeStream>),
    /// Another was faster.
    Held,
    /// It passes.
    Away(Error),
}

/// Connections to this installation's slot.
pub(crate) fn connector(shared: &Shared) -> Result<PgwireConnector> {
    let options = &shared.options;
    PgwireConnector::new(&options.url, &shared.connect, options.ca_file.clone(), checked(&options.namespace)?)
}

/// Asks the server what stands there.
pub(crate) async fn facts(gate: &mut dyn Gate, statement: &str) -> std::result::Result<Facts, Failure> {
    let rows = gate.query(statement).await?;
    Facts::read(&rows).ok_or_else(|| Failure::protocol("the server's answer is not what was asked for"))
}

/// Where earlier timelines ended.
pub(crate) async fn history(
    gate: &mut dyn Gate,
    identity: &Identity,
) -> std::result::Result<Vec<(u32, Lsn)>, Failure> {
    match identity.timeline {
        0 | 1 => Ok(Vec::new()),
        timeline => gate.history(timeline).await,
    }
}

/// Where the timeline that we know ended, if the server is on another.
pub(crate) fn switched_at(facts: &Facts, history: &[(u32, Lsn)]) -> Option<Lsn> {
    let known = facts.known.as_ref()?.timeline;
    history.iter().find(|(timeline, _)| *timeline == known).map(|(_, end)| *end)
}

/// Opens the stream; waits while another reads the slot. Every error is also the dependency's state.
pub(crate) async fn open(shared: &Arc<Shared>) -> Result<Box<dyn ChangeStream>> {
    if shared.stream.tasks.is_closed() {
        return Err(Error::unavailable("open the table stream: the store is closed"));
    }
    let opened = open_over_outages(shared).await;
    if let Err(error) = &opened {
        shared.stream.health.set(DependencyState::Down(error.chain()));
    }
    opened
}

async fn open_over_outages(shared: &Arc<Shared>) -> Result<Box<dyn ChangeStream>> {
    let connector = connector(shared)?;
    let entropy = &*shared.options.entropy;
    let mut failures = 0_u32;
    let mut tries = Tries { poll: FIRST_POLL, away_since: None, last_walsender: None };
    loop {
        match attempt(shared, &connector, &mut tries).await? {
            Attempt::Open(stream) => return Ok(stream),
            Attempt::Held => tries.stand_by(shared).await,
            Attempt::Away(error) => {
                failures = failures.saturating_add(1);
                if tries.away_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
                    return Err(error);
                }
                // Nobody is known to read the slot now.
                shared.stream.health.set(DependencyState::Down(error.chain()));
                sleep(BACKOFF.wait(failures, entropy)).await;
            }
        }
    }
}

/// One connection: looks, stands by while the slot is read by another, which ends an outage, then starts.
async fn attempt(shared: &Arc<Shared>, connector: &dyn Connector, tries: &mut Tries) -> Result<Attempt> {
    let Ready { mut gate, identity, history, facts } = match ready(shared, connector, tries).await? {
        Ok(ready) => ready,
        Err(failure) => return passing(failure),
    };
    let slot = shared.options.namespace.clone();
    let mut transport = match gate.start().await {
        Ok(transport) => transport,
        Err(failure) if failure.class == Class::Held => return Ok(Attempt::Held),
        // One SQLSTATE stands for several things: the server's tables say which.
        Err(failure) if matches!(failure.class, Class::Missing | Class::Unreadable) => {
            gate = match connector.connect().await {
                Ok(gate) => gate,
                Err(failure) => return passing(failure),
            };
            let seen = match self::facts(&mut *gate, &inspect(&slot)).await {
                Ok(seen) => seen,
                Err(failure) => return passing(failure),
            };
            judge(&slot, &identity, &seen, switched_at(&seen, &history))?.into_result(&slot)?;
            return Err(failure.into_error(&format!("open the table stream from slot {slot}")));
        }
        Err(failure) => return passing(failure),
    };
    tries.last_walsender = Some(facts.pid);
    let slot_confirmed = facts.slot.as_ref().and_then(|slot| slot.confirmed).unwrap_or_default();
    let mut token = [0; 16];
    shared.options.entropy.fill(&mut token);
    let holder =
        Holder { slot, token: uuid::Builder::from_random_bytes(token).into_uuid(), walsender: facts.pid };
    let plain = Plain::new(&shared.connect);
    let claimed = async {
        let mut connection = plain
            .connect()
            .await
            .map_err(|error| fault::of(error, Call::Connect, "connect to claim the slot"))?;
        let place = Place {
            system_id: &identity.system_id,
            timeline: identity.timeline,
            switched_at: switched_at(&facts, &history),
            slot: slot_confirmed,
        };
        let progress = keeper::claim(&mut connection, &holder, place).await?;
        Ok::<_, Error>((connection, progress))
    };
    let (connection, progress) = match claimed.await {
        Ok(claimed) => claimed,
        Err(error) => {
            transport.close().await;
            return if error.is_outage() { Ok(Attempt::Away(error)) } else { Err(error) };
        }
    };
    if facts.known.as_ref().is_some_and(|known| known.timeline != identity.timeline) {
        tracing::warn!(
            timeline = identity.timeline,
            begins_at = %progress.confirmed,
            "the server is on a new timeline: the stream begins at the slot's own position, less what is confirmed"
        );
    }
    transport.report(progress.confirmed);
    let source = Source { system_id: identity.system_id, timeline: identity.timeline, history };
    let table = facts.items.unwrap_or_default();
    let reader = Reader::new(source, table, keeper::heartbeat_prefix(&holder.slot), progress);
    let line = Arc::new(Line::new(progress, limits(shared), Arc::clone(&shared.stream.health)));
    let keeper = Keeper {
        line: Arc::clone(&line),
        plain,
        connection: Some(connection),
        holder,
        gauges: Arc::clone(&shared.stream.gauges),
        health: Arc::clone(&shared.stream.health),
        entropy: Arc::clone(&shared.options.entropy),
        heartbeat_interval: shared.options.stream.heartbeat_interval,
        danger: None,
    };
    Ok(Attempt::Open(Box::new(begin(shared, transport, reader, line, keeper))))
}

fn begin(
    shared: &Arc<Shared>,
    transport: Box<dyn Transport>,
    reader: Reader,
    line: Arc<Line>,
    keeper: Keeper,
) -> SlotStream {
    let pump = Pump {
        line: Arc::clone(&line),
        transport,
        reader,
        clock: Arc::clone(&shared.options.clock),
        gauges: Arc::clone(&shared.stream.gauges),
        status_interval: shared.options.stream.status_interval,
    };
    shared.stream.gauges.opened(format!("{} ", keeper.holder.token));
    shared.stream.health.set(DependencyState::Up);
    shared.stream.tasks.spawn(pump.run());
    shared.stream.tasks.spawn(keeper.run());
    shared.stream.reading(&line);
    SlotStream::new(line)
}

fn limits(shared: &Shared) -> Limits {
    let options = &shared.options.stream;
    Limits { read_ahead: options.read_ahead, silence: options.silence_limit, stall: options.stall_limit }
}

/// Connects and looks until the slot is ours to open.
async fn ready(
    shared: &Shared,
    connector: &dyn Connector,
    tries: &mut Tries,
) -> Result<std::result::Result<Ready, Failure>> {
    let slot = &shared.options.namespace;
    let statement = inspect(slot);
    let mut gate = match connector.connect().await {
        Ok(gate) => gate,
        Err(failure) => return Ok(Err(failure)),
    };
    let mut suspicious = false;
    loop {
        let looked = async {
            let identity = gate.identify().await?;
            let history = history(&mut *gate, &identity).await?;
            let facts = facts(&mut *gate, &statement).await?;
            Ok::<_, Failure>((identity, history, facts))
        };
        let (identity, history, facts) = match looked.await {
            Ok(looked) => looked,
            Err(failure) => return Ok(Err(failure)),
        };
        shared.stream.gauges.sample(&facts.sample);
        match judge(slot, &identity, &facts, switched_at(&facts, &history))? {
            Verdict::Gap(GapReason::SlotMoved { .. }) if !suspicious => {
                suspicious = true;
                sleep(SECOND_LOOK).await;
                continue;
            }
            verdict => verdict.into_result(slot)?,
        }
        suspicious = false;
        match facts.slot.as_ref().and_then(|slot| slot.active_pid) {
            None => return Ok(Ok(Ready { gate, identity, history, facts })),
            reader if reader == tries.last_walsender => {
                return Ok(Err(Failure::away("our own last connection to the slot has not ended yet")));
            }
            Some(_) => tries.stand_by(shared).await,
        }
    }
}

/// What passes is tried again; the rest is whoever's opens.
fn passing(failure: Failure) -> Result<Attempt> {
    let class = failure.class;
    let error = failure.into_error("open the table stream");
    match class {
        Class::Away | Class::Stopping | Class::Protocol => Ok(Attempt::Away(error)),
        Class::Held => Ok(Attempt::Held),
        _ => Err(error),
    }
}
