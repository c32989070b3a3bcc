//! The composition root: builds everything in phases, runs the services, and ends them.
#![expect(clippy::disallowed_types, reason = "sockets are made and owned here, and nowhere in a service")]

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use opentelemetry::metrics::Meter;
use tidings_runtime::{health::Health, shutdown::Shutdown, telemetry::Telemetry};
use tokio::{net::TcpListener, task::JoinError, time::Instant};

use self::announce::Places;
use crate::{
    admin,
    chance::chance,
    cli::output::Failure,
    compose::{Root, Running},
    http::{self, Front},
    profile::{Parts, Role, Stack},
    settings::{self, Scope, Settings, Sources, faults::Faults},
    signals::Signals,
    telemetry::{self, Export},
};

mod announce;
mod waiting;

/// How long tasks of the runtime may take to end after everything else has.
const RUNTIME_END: Duration = Duration::from_secs(1);

/// How long letting go of the servers may take at least, also where the grace is over.
const LET_GO: Duration = Duration::from_secs(1);

/// How long an admin request may go on when everything else has ended.
const ADMIN_GRACE: Duration = Duration::from_millis(200);

/// What a task of the server ended with.
type Ended = Result<(&'static str, tidings_domain::Result<()>), JoinError>;

/// How the server ended, when it did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As asked, within the grace.
    Graceful,
    /// A second signal, or the end of the grace.
    Cut,
}

/// Runs `roles`, all four where none is named, until a signal ends them.
pub(crate) fn run(sources: &Sources, roles: &[Role], ready_file: Option<&Path>) -> Result<(), Failure> {
    let mut faults = Faults::default();
    let export = Export::read(&sources.variables, &mut faults);
    let layers = settings::layers(sources, &mut faults);
    let settings = settings::check(layers, Scope::Serve(roles), faults).map_err(Failure::usage)?;
    // Each once, however often it is named.
    let roles: Vec<Role> =
        Role::ALL.into_iter().filter(|role| roles.is_empty() || roles.contains(role)).collect();

    let guard = telemetry::init(&settings, export, &roles).map_err(chain)?;
    let services: Vec<(Role, Telemetry)> = roles
        .iter()
        .map(|role| Ok((*role, guard.service(*role, &settings)?)))
        .collect::<anyhow::Result<_>>()
        .map_err(chain)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::refused)?;

    let ended = runtime.block_on(async {
        let mut signals = Signals::catch().context("signals cannot be caught")?;
        let shutdown = Shutdown::new(settings.grace);
        let serving = serve(&settings, services, &guard, shutdown.clone(), ready_file);
        let mut serving = std::pin::pin!(serving);
        let signal = tokio::select! {
            biased;
            ended = serving.as_mut() => return ended,
            signal = signals.next() => signal,
        };
        tracing::info!(signal, grace_s = settings.grace.as_secs(), "stopping: what is under way is finished");
        shutdown.request();
        tokio::select! {
            biased;
            ended = serving.as_mut() => ended,
            signal = signals.next() => {
                tracing::warn!(signal, "ended at once");
                Ok(End::Cut)
            }
        }
    });
    match ended {
        Ok(End::Graceful) => {
            tracing::info!("stopped");
            runtime.shutdown_timeout(RUNTIME_END);
            drop(guard);
            Ok(())
        }
        Ok(End::Cut) => {
            runtime.shutdown_background();
            // Whoever asks twice does not wait for a collector.
            std::mem::forget(guard);
            Err(Failure::refused("ended before everything was finished; nothing that was accepted is lost"))
        }
        Err(error) => {
            // Said once: in the log, or where the log does not say such things, to whoever started it.
            let is_logged = tracing::enabled!(tracing::Level::ERROR);
            tracing::error!(error = format!("{error:#}"), "the process ends");
            runtime.shutdown_timeout(RUNTIME_END);
            drop(guard);
            Err(if is_logged { Failure::refused("") } else { chain(error) })
        }
    }
}

async fn serve(
    settings: &Settings,
    services: Vec<(Role, Telemetry)>,
    guard: &telemetry::Guard,
    shutdown: Shutdown,
    ready_file: Option<&Path>,
) -> anyhow::Result<End> {
    let roles: Vec<Role> = services.iter().map(|(role, _)| *role).collect();
    // Only the api is reached there: four processes of one machine share the setting.
    let listener = match roles.contains(&Role::Api) {
        true => Some(bind("http_addr", settings.http_addr).await?),
        false => None,
    };
    let admin_listener = bind("admin_addr", settings.admin_addr).await?;
    let url = listener.as_ref().map(TcpListener::local_addr).transpose()?.map(url_of);
    let admin_url = url_of(admin_listener.local_addr()?);
    let health = Health::new();
    health.expose(&guard.meter());

    // Probes are answered from the first moment to the last, whatever is waited for between them.
    let admin_shutdown = Shutdown::new(ADMIN_GRACE);
    let admin_front = Front::new(admin::router(health.clone(), guard.registry()));
    let admin = http::serve(admin_listener, admin_front, settings.http.clone(), admin_shutdown.clone());
    let places = Places {
        roles: &roles,
        url: url.as_deref(),
        admin_url: &admin_url,
        spans: guard.endpoint(),
        ready_file,
    };
    let life = async {
        let ended = live(settings, services, guard.meter(), &health, &shutdown, listener, &places).await;
        admin_shutdown.request();
        ended
    };
    let (ended, ()) = tokio::join!(life, admin);
    ended
}

/// Everything between the admin server's first answer and its last: the adapters are made, what was provisioned is waited
/// for, the services run, and all of it ends in the opposite order.
async fn live(
    settings: &Settings,
    services: Vec<(Role, Telemetry)>,
    meter: Meter,
    health: &Health,
    shutdown: &Shutdown,
    listener: Option<TcpListener>,
    places: &Places<'_>,
) -> anyhow::Result<End> {
    let (clock, entropy) = chance();
    let part = health.part("installation");
    let front =
        Front::new(tidings_api::waiting_router(health.clone(), Arc::clone(&clock), Arc::clone(&entropy)));
    let mut running = Running::new();
    if let Some(listener) = listener {
        let (front, bounds, shutdown) = (front.clone(), settings.http.clone(), shutdown.clone());
        running.spawn(async move {
            http::serve(listener, front, bounds, shutdown).await;
            ("the http server", Ok(()))
        });
    }
    places.write(false)?;

    let parts = Parts { settings, meter, clock: Arc::clone(&clock), entropy: Arc::clone(&entropy) };
    let stack = Stack::open(parts, places.roles).await?;
    for needed in &stack.needed {
        health.needs(Arc::clone(needed));
    }
    for dependency in &stack.dependencies {
        health.depends_on(Arc::clone(dependency));
    }
    let waited = waiting::installation(settings.profile, &*stack.catalog, &*entropy, &part, shutdown).await;
    let ended = match waited {
        Err(error) => end(&mut running, shutdown, Some(error)).await,
        Ok(None) => end(&mut running, shutdown, None).await,
        Ok(Some(installation)) => {
            let root = Root {
                settings,
                stack: &stack,
                clock,
                entropy,
                health: health.clone(),
                secret: settings.secret.clone().unwrap_or(installation.secret),
                public_url: public_url(settings, places),
            };
            for (role, telemetry) in services {
                if let Some(router) = root.start(role, telemetry, shutdown, &mut running) {
                    front.open(router);
                }
            }
            let failed = run_on(settings, &stack, health, &mut running, shutdown, places).await;
            end(&mut running, shutdown, failed).await
        }
    };
    let (ended, left) = ended;
    stack.close(left).await;
    ended
}

/// Until the process is to end; the error of what ended by itself.
async fn run_on(
    settings: &Settings,
    stack: &Stack,
    health: &Health,
    running: &mut Running,
    shutdown: &Shutdown,
    places: &Places<'_>,
) -> Option<anyhow::Error> {
    let announced = async {
        if let Err(error) = announce::announce(settings, stack, health, places).await {
            tracing::error!(error = format!("{error:#}"), "it cannot be told that the server is up");
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        failed = first_end(running, shutdown) => failed,
        () = announced => None,
    }
}

/// Asks everything to stop and waits for it as long as the grace lasts. With it comes what is left of the grace for letting
/// go of the servers.
async fn end(
    running: &mut Running,
    shutdown: &Shutdown,
    failed: Option<anyhow::Error>,
) -> (anyhow::Result<End>, Duration) {
    let began = Instant::now();
    shutdown.request();
    let rest = tokio::time::timeout(shutdown.grace(), drain(running)).await;
    running.shutdown().await;
    let ended = match (failed, rest) {
        (Some(error), _) | (None, Ok(Err(error))) => Err(error),
        (None, Ok(Ok(()))) => Ok(End::Graceful),
        (None, Err(_)) => {
            tracing::warn!("the grace is over: what was still under way is cut off");
            Ok(End::Cut)
        }
    };
    (ended, shutdown.grace().saturating_sub(began.elapsed()).max(LET_GO))
}

/// Where people reach the api. A mailer alone takes it for where the API listens by its settings.
fn public_url(settings: &Settings, places: &Places<'_>) -> String {
    if let Some(url) = settings.public_url.as_deref().or(places.url) {
        return url.to_owned();
    }
    let url = url_of(settings.http_addr);
    if places.roles.contains(&Role::Mailer) {
        tracing::warn!(
            url,
            "TIDINGS_PUBLIC_URL is not set: links in mails lead to where the API would listen on this machine"
        );
    }
    url
}

/// Waits until the process is to end; the error of a service that ended without being asked to. The wish to stop comes
/// first: by the time that it is seen here, services on other threads may have followed it already.
async fn first_end(running: &mut Running, shutdown: &Shutdown) -> Option<anyhow::Error> {
    tokio::select! {
        biased;
        () = shutdown.requested() => None,
        ended = running.join_next() => ended_early(ended),
    }
}

/// The error of a service that ended without being asked to, whatever it said.
fn ended_early(ended: Option<Ended>) -> Option<anyhow::Error> {
    Some(match ended {
        None => anyhow!("nothing runs"),
        Some(ended) => match outcome(ended) {
            (name, Ok(())) => anyhow!("{name} ended without being asked to"),
            (_, Err(error)) => error,
        },
    })
}

/// Waits until everything has ended; the first error is given.
async fn drain(running: &mut Running) -> anyhow::Result<()> {
    let mut first = Ok(());
    while let Some(ended) = running.join_next().await {
        if let (_, Err(error)) = outcome(ended)
            && first.is_ok()
        {
            first = Err(error);
        }
    }
    first
}

fn outcome(ended: Ended) -> (&'static str, anyhow::Result<()>) {
    match ended {
        Ok((name, Ok(()))) => (name, Ok(())),
        Ok((name, Err(error))) => (name, Err(anyhow::Error::new(error).context(format!("{name} ended")))),
        Err(error) => ("a service", Err(anyhow::Error::new(error).context("a service panicked"))),
    }
}

async fn bind(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| {
        format!(
            "{addr} cannot be listened on: stop what listens there, or set {} to another address",
            settings::layers::variable(setting)
        )
    })
}

/// Where an address is reached from this machine.
fn url_of(addr: SocketAddr) -> String {
    let port = addr.port();
    match addr.ip() {
        ip if ip.is_unspecified() => format!("http://localhost:{port}"),
        ip => format!("http://{}", SocketAddr::new(ip, port)),
    }
}

fn chain(error: anyhow::Error) -> Failure {
    Failure::refused(format!("{error:#}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_ends_is_a_failure_unless_it_was_asked_to() {
        let shutdown = Shutdown::new(Duration::from_secs(1));
        let mut running = Running::new();
        running.spawn(async { ("the mailer", Ok(())) });
        let failed = first_end(&mut running, &shutdown).await.expect("nobody asked it to");
        assert_eq!(failed.to_string(), "the mailer ended without being asked to");
        // One that has followed the wish to stop before anyone looks: seen as a failure, the exit code was 1.
        running.spawn(async { ("the mailer", Ok(())) });
        shutdown.request();
        tokio::task::yield_now().await;
        assert!(first_end(&mut running, &shutdown).await.is_none());
        assert!(drain(&mut running).await.is_ok());
    }
}
