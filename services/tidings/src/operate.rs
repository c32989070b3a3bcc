//! What people do to an installation: provisioning, and what repairs it. No service runs here.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};
use tidings_domain::{Error, ErrorKind};

pub(crate) use self::again::{Again, Done};
use crate::{
    cli::output::Failure,
    profile::{Profile, Role},
    settings::Settings,
    telemetry::{self, Export},
};

mod again;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "selfhosted")]
mod selfhosted;

/// What provisioning found or made.
pub(crate) struct Provisioned {
    /// Where.
    place: String,
    /// What was provisioned; 0 where nothing is.
    version: u32,
    /// What is missing, by name.
    missing: Vec<String>,
}

impl Provisioned {
    /// A sentence for people, with what is missing on lines of its own.
    pub(crate) fn text(&self) -> String {
        let Self { place, version, missing } = self;
        if missing.is_empty() {
            return format!("everything is there in {place}, version {version}\n");
        }
        let mut text = format!("not everything is there in {place}: `tidings provision` makes it\n");
        for name in missing {
            let _ = writeln!(text, "  missing: {name}");
        }
        text
    }

    /// The same for scripts.
    pub(crate) fn json(&self) -> Value {
        let Self { place, version, missing } = self;
        json!({ "complete": self.is_complete(), "place": place, "version": version, "missing": missing })
    }

    /// Whether nothing is missing.
    pub(crate) fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Provisions, or says what is missing where only that is asked for. A server that does not answer is tried again for
/// `wait`.
pub(crate) fn provision(settings: &Settings, check: bool, wait: Duration) -> Result<Provisioned, Failure> {
    block_on(async {
        match settings.profile {
            #[cfg(feature = "embedded")]
            Profile::Embedded => {
                let _nothing_to_wait_for = wait;
                embedded::provision(settings, check).await
            }
            #[cfg(feature = "selfhosted")]
            Profile::Selfhosted => selfhosted::provision(settings, check, wait).await,
            #[allow(unreachable_patterns, reason = "reached where a profile is not built in")]
            profile => Err(not_built(profile)),
        }
    })
}

/// Publishes items again from the table; a recovery mends the table stream before.
pub(crate) fn publish_again(settings: &Settings, export: Export, again: Again) -> Result<Done, Failure> {
    // A command's output is for whoever called it: what goes well is told at the end.
    let quiet = Settings {
        log: if settings.log == "info" { "warn".to_owned() } else { settings.log.clone() },
        ..settings.clone()
    };
    let guard = telemetry::init(&quiet, export, &[Role::CdcWatcher])
        .map_err(|error| Failure::refused(format!("{error:#}")))?;
    // What it publishes is what the watcher publishes.
    let telemetry =
        guard.service(Role::CdcWatcher, settings).map_err(|error| Failure::refused(format!("{error:#}")))?;
    block_on(async {
        match settings.profile {
            #[cfg(feature = "embedded")]
            Profile::Embedded => embedded::publish_again(settings, again, telemetry).await,
            #[cfg(feature = "selfhosted")]
            Profile::Selfhosted => selfhosted::publish_again(settings, again, telemetry).await,
            #[allow(unreachable_patterns, reason = "reached where a profile is not built in")]
            profile => {
                let _ = (again, telemetry);
                Err(not_built(profile))
            }
        }
    })
}

fn not_built(profile: Profile) -> Failure {
    Failure::usage(format!("this build of tidings does not have the profile {}", profile.as_str()))
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::refused)?
        .block_on(work)
}

/// A server that does not answer is another exit code than one that refuses.
fn failure(error: &Error) -> Failure {
    if is_away(error) { Failure::unreachable(error.chain()) } else { Failure::refused(error.chain()) }
}

/// Whether another try makes sense: what was tried is idempotent.
fn is_away(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Transient | ErrorKind::Unknown)
}
