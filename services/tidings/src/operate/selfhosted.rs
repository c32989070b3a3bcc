//! Provisioning and repairing Postgres and RabbitMQ.

use std::{sync::Arc, time::Duration};

use opentelemetry::global;
use tidings_domain::{
    Error, ErrorKind,
    backoff::Backoff,
    ports::{Entropy, INSTALLATION_VERSION, Topology},
    topic::TopicName,
};
use tokio::time::Instant;

use super::{Provisioned, failure, is_away};
use crate::{
    chance::chance,
    cli::output::Failure,
    profile::selfhosted::Servers,
    settings::{Settings, secret::mask_url},
};

/// The waits between tries while a server does not answer.
const TRIES: Backoff = Backoff { first: Duration::from_millis(200), most: Duration::from_secs(2) };

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
    servers.close().await;
    outcome.map_err(|error| failure(&error))
}

/// Reads the settings of the servers; nothing is asked for yet.
fn connect(settings: &Settings) -> Result<(Servers, Arc<dyn Entropy>), Failure> {
    let (clock, entropy) = chance();
    let servers = Servers::new(settings, NAME, &global::meter("tidings"), &clock, &entropy)
        .map_err(|error| Failure::usage(format!("{error:#}")))?;
    Ok((servers, entropy))
}

/// Makes what is missing, in the order that DESIGN gives: what every service waits for comes last.
async fn make(settings: &Settings, servers: &Servers) -> tidings_domain::Result<Provisioned> {
    refuse_newer(servers).await?;
    servers.store.provision().await?;
    let topics = topics(servers).await?;
    let topology = servers.rabbitmq.topology();
    if declares(settings) {
        topology.declare(&topics).await?;
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
    let version = servers.store.complete().await?;
    Ok(Provisioned { place: place(settings), version, missing: Vec::new() })
}

/// What is missing. Writes nothing.
async fn look(settings: &Settings, servers: &Servers) -> tidings_domain::Result<Provisioned> {
    refuse_newer(servers).await?;
    let mut names = servers.store.check().await?;
    let installation = servers.store.catalog().installation().await?;
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
    let version =
        servers.store.catalog().installation().await?.map_or(0, |installation| installation.version);
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

async fn topics(servers: &Servers) -> tidings_domain::Result<Vec<TopicName>> {
    Ok(servers.store.catalog().topics().await?.into_iter().map(|topic| topic.name).collect())
}

async fn missing(topology: &dyn Topology, topics: &[TopicName]) -> tidings_domain::Result<Vec<String>> {
    Ok(topology.verify(topics).await?.into_iter().map(|missing| missing.name).collect())
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
