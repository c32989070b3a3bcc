//! `embedded` provisions itself at every start.

use std::{sync::Arc, time::Duration};

use opentelemetry::global;
use tidings_domain::ports::INSTALLATION_VERSION;
use tidings_runtime::telemetry::Telemetry;

use super::{
    Again, Done, Provisioned,
    again::{self, Places},
};
use crate::{
    chance::chance,
    cli::output::Failure,
    profile::{Parts, Role, Stack},
    settings::Settings,
};

/// How long writing what is left may take: a disk that hangs is not waited for.
const CLOSE: Duration = Duration::from_secs(30);

pub(super) async fn provision(settings: &Settings, check: bool) -> Result<Provisioned, Failure> {
    let place = settings.data_dir.display().to_string();
    if !check {
        let stack = open(settings).await?;
        let installation = stack.catalog.installation().await;
        stack.close(CLOSE).await;
        let version =
            installation.map_err(|error| Failure::refused(error.chain()))?.map_or(0, |it| it.version);
        return Ok(Provisioned { place, version, missing: Vec::new() });
    }
    if !settings.data_dir.join(tidings_sqlite::DATABASE_FILE).is_file() {
        return Err(Failure::refused(format!(
            "there is nothing in {place} yet: `tidings provision` makes it, and so does the first `tidings up`"
        )));
    }
    let version = tidings_sqlite::Store::check(&settings.data_dir)
        .await
        .map_err(|error| Failure::refused(error.chain()))?;
    if version > INSTALLATION_VERSION {
        return Err(Failure::refused(format!(
            "the installation in {place} has version {version}, which this program does not know: take the newer program"
        )));
    }
    Ok(Provisioned { place, version, missing: Vec::new() })
}

/// What is published lies in the file's queue until the next `tidings up`.
pub(super) async fn publish_again(
    settings: &Settings,
    again: Again,
    telemetry: Telemetry,
) -> Result<Done, Failure> {
    if matches!(again, Again::Recover) {
        return Err(Failure::refused(
            "on embedded there is nothing to recover: the change log lies in the same file as the items",
        ));
    }
    if !settings.data_dir.join(tidings_sqlite::DATABASE_FILE).is_file() {
        return Err(Failure::refused(format!("there is nothing in {}", settings.data_dir.display())));
    }
    let stack = open(settings).await?;
    let places = Places {
        items: Arc::clone(&stack.items),
        deliveries: Arc::clone(&stack.deliveries),
        bus: Arc::clone(&stack.bus),
    };
    let done = again::publish(places, again, None, telemetry).await;
    stack.close(CLOSE).await;
    done
}

/// The folder, which one program at a time may hold.
async fn open(settings: &Settings) -> Result<Stack, Failure> {
    let (clock, entropy) = chance();
    let parts = Parts { settings, meter: global::meter("tidings"), clock: Arc::clone(&clock), entropy };
    Stack::open(parts, &Role::ALL).await.map_err(|error| Failure::refused(format!("{error:#}")))
}
