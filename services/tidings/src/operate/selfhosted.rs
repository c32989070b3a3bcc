//! Provisioning and repairing Postgres and RabbitMQ.

use std::{sync::Arc, time::Duration};

use opentelemetry::global;
use tidings_domain::{
    Error, ErrorKind,
    backoff::Backoff,
    ports::{Entropy, INSTALLATION_VERSION, Topology},
    topic::TopicName,
};
use tidings_runtime::telemetry::Telemetry;
use tokio::time::Instant;

use super::{
    Again, Done, Provisioned,
    again::{self, Mended, Places},
    failure, is_away,
};
use crate::{
    chance::chance,
    cli::output::Failure,
    profile::selfhosted::Servers,
    settings::{Settings, secret::mask_url},
};

/// The waits between tries while a server does not answer.
const TRIES: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(2) };

/// How long letting go of the servers may take beyond the time that the broker has for confirming what was published.
const CLOSE: Duration = Duration::from_secs(2);

/// The servers, as people know them.
const POSTGRES: &str = "Postgres";
const RABBITMQ: &str = "RabbitMQ";

/// What servers show of a command's connections.
const NAME: &str = "tidings-operator";

pub(super) async fn provision(
    settings: &Settings,
    check: bool,
    wait: Duration,
) -> Result<Provisioned, Failure> {
    let (servers, entropy) = connect(settings)?;
    let until = Instant::now() + wait;
    let mut tries = 0_u32;
    let outcome = loop {
        let outcome = if check { look(settings, &servers).await } else { make(settings, &servers).await };
        match outcome {
            Err(error) if is_away(&error) => {
                tries = tries.saturating_add(1);
                let pause = TRIES.wait(tries, &*entropy);
                if Instant::now() + pause >= until {
                    break Err(error);
                }
                tokio::time::sleep(pause).await;
            }
            outcome => break outcome,
        }
    };
    close(settings, servers).await;
    outcome.map_err(|error| failure(&error))
}

pub(super) async fn publish_again(
    settings: &Settings,
    again: Again,
    telemetry: Telemetry,
) -> Result<Done, Failure> {
    let (servers, _) = connect(settings)?;
    let done = async {
        refuse_other_versions(&servers).await.map_err(|error| failure(&error))?;
        let mended = match &again {
            Again::Recover => mend(&servers).await.map_err(|error| failure(&error))?,
            Again::Replay(..) => None,
        };
        let places = Places {
            items: servers.store.items(),
            deliveries: servers.store.deliveries(),
            bus: servers.rabbitmq.bus(),
        };
        again::publish(places, again, mended, telemetry).await
    };
    let done = done.await;
    close(settings, servers).await;
    done
}

/// Makes the slot anew where there is a gap. None where there is none: a recovery that was cut off after this is gone on
/// with by running it again. A gap beside a cdc-watcher that still reads the slot is refused: it stays a gap.
async fn mend(servers: &Servers) -> tidings_domain::Result<Option<Mended>> {
    let made = servers.store.recover_slot().await.map_err(at(POSTGRES))?;
    Ok(made.map(|made| Mended { slot: made.slot, was: made.was, begins_at: made.begins_at }))
}

/// Lets go; what is not said to a server in time it finds out by itself.
async fn close(settings: &Settings, servers: Servers) {
    let confirm = settings.selfhosted.as_ref().map_or(Duration::ZERO, |servers| servers.amqp.confirm_timeout);
    if tokio::time::timeout(confirm + CLOSE, servers.close()).await.is_err() {
        tracing::debug!("the connections could not be ended in time");
    }
}

/// Reads the settings of the servers; nothing is asked for yet.
fn connect(settings: &Settings) -> Result<(Servers, Arc<dyn Entropy>), Failure> {
    let (clock, entropy) = chance();
    let servers = Servers::new(settings, NAME, &global::meter("tidings"), &clock, &entropy)
        .map_err(|error| Failure::usage(format!("{error:#}")))?;
    Ok((servers, entropy))
}

/// Says which server an error is of: a command speaks to both.
fn at(server: &'static str) -> impl Fn(Error) -> Error {
    move |mut error| {
        error.context = format!("{server}: {}", error.context);
        error
    }
}

/// Makes what is missing, in the order that DESIGN gives: what every service waits for comes last.
async fn make(settings: &Settings, servers: &Servers) -> tidings_domain::Result<Provisioned> {
    refuse_newer(servers).await?;
    servers.store.provision().await.map_err(at(POSTGRES))?;
    let topics = topics(servers).await?;
    let topology = servers.rabbitmq.topology();
    if declares(settings) {
        topology.declare(&topics).await.map_err(at(RABBITMQ))?;
    } else {
        let missing = missing(&*topology, &topics).await?;
        if !missing.is_empty() {
            return Err(Error::new(
                ErrorKind::Misconfigured,
                format!(
                    "look at the topology, which `topology = verify` leaves to others: missing are {}",
                    missing.join(", ")
                ),
            ));
        }
    }
    let version = servers.store.complete().await.map_err(at(POSTGRES))?;
    Ok(Provisioned { place: place(settings), version, missing: Vec::new() })
}

/// What is missing. Writes nothing.
async fn look(settings: &Settings, servers: &Servers) -> tidings_domain::Result<Provisioned> {
    refuse_newer(servers).await?;
    let mut names = servers.store.check().await.map_err(at(POSTGRES))?;
    let installation = servers.store.catalog().installation().await.map_err(at(POSTGRES))?;
    // Without the tables nobody can say which topics there are: what every installation has is looked for.
    let topics = match installation {
        Some(_) => topics(servers).await?,
        None => vec![TopicName::messages()],
    };
    names.extend(missing(&*servers.rabbitmq.topology(), &topics).await?);
    let version = installation.map_or(0, |installation| installation.version);
    Ok(Provisioned { place: place(settings), version, missing: names })
}

/// A newer program's installation is not touched by an older one.
async fn refuse_newer(servers: &Servers) -> tidings_domain::Result<()> {
    let version = servers
        .store
        .catalog()
        .installation()
        .await
        .map_err(at(POSTGRES))?
        .map_or(0, |installation| installation.version);
    if version > INSTALLATION_VERSION {
        return Err(Error::new(
            ErrorKind::Misconfigured,
            format!(
                "read the installation: it has version {version} and this program knows {INSTALLATION_VERSION}: take the newer program"
            ),
        ));
    }
    Ok(())
}

/// Only what this program knows is worked on.
async fn refuse_other_versions(servers: &Servers) -> tidings_domain::Result<()> {
    refuse_newer(servers).await?;
    match servers.store.catalog().installation().await.map_err(at(POSTGRES))? {
        Some(installation) if installation.version == INSTALLATION_VERSION => Ok(()),
        _ => Err(Error::misconfigured("read the installation: run `tidings provision` first")),
    }
}

async fn topics(servers: &Servers) -> tidings_domain::Result<Vec<TopicName>> {
    let topics = servers.store.catalog().topics().await.map_err(at(POSTGRES))?;
    Ok(topics.into_iter().map(|topic| topic.name).collect())
}

async fn missing(topology: &dyn Topology, topics: &[TopicName]) -> tidings_domain::Result<Vec<String>> {
    let missing = topology.verify(topics).await.map_err(at(RABBITMQ))?;
    Ok(missing.into_iter().map(|missing| missing.name).collect())
}

fn declares(settings: &Settings) -> bool {
    settings.selfhosted.as_ref().is_none_or(|servers| servers.amqp.declares)
}

/// The servers, without their passwords.
fn place(settings: &Settings) -> String {
    settings.selfhosted.as_ref().map_or_else(String::new, |servers| {
        format!("{} and {}", mask_url(servers.database.url.expose()), mask_url(servers.amqp.url.expose()))
    })
}
