//! The composition root: builds everything in phases, runs the services, and ends them.
#![expect(clippy::disallowed_types, reason = "sockets are made and owned here, and nowhere in a service")]

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};
use serde_json::json;
use tidings_domain::{
    ports::{Clock, Entropy, INSTALLATION_VERSION},
    token::Secret,
};
use tidings_runtime::{health::Health, shutdown::Shutdown, telemetry::Telemetry};
use tokio::{net::TcpListener, task::JoinError};

use crate::{
    admin,
    banner::Banner,
    chance::{SystemClock, SystemEntropy},
    cli::output::{Failure, print},
    compose::{Root, Running},
    http,
    profile::{Role, Stack},
    settings::{self, Auth, Settings, Sources, faults::Faults},
    signals::Signals,
    telemetry::{self, Export},
};

/// How long the start waits for readiness before it says where it listens all the same.
const READY: Duration = Duration::from_secs(3);

/// How often it looks meanwhile: in memory only.
const READY_LOOK: Duration = Duration::from_millis(5);

/// How long tasks of the runtime may take to end after everything else has.
const RUNTIME_END: Duration = Duration::from_secs(1);

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
    let settings = settings::check(layers, roles, faults).map_err(Failure::usage)?;
    let roles = if roles.is_empty() { &Role::ALL } else { roles };

    let guard = telemetry::init(&settings, export).map_err(chain)?;
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

/// Provisions, or says what is missing.
pub(crate) fn provision(settings: &Settings, check: bool) -> Result<String, Failure> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::refused)?;
    let folder = settings.data_dir.display();
    if check && !settings.data_dir.join(tidings_sqlite::DATABASE_FILE).is_file() {
        return Err(Failure::refused(format!(
            "there is nothing in {folder} yet: `tidings provision` makes it, and so does the first `tidings up`"
        )));
    }
    runtime.block_on(async {
        if check {
            let version = tidings_sqlite::Store::check(&settings.data_dir)
                .await
                .map_err(|error| Failure::refused(error.chain()))?;
            if version > INSTALLATION_VERSION {
                return Err(Failure::refused(format!(
                    "the installation in {folder} has version {version}, which this program does not know: take the newer program"
                )));
            }
            return Ok(format!("everything is there in {folder}, version {version}\n"));
        }
        let (clock, entropy) = chance();
        let stack = Stack::open(settings, clock, entropy).await.map_err(chain)?;
        let installation =
            stack.catalog.installation().await.map_err(|error| Failure::refused(error.chain()))?;
        stack.close().await;
        let version = installation.map_or(0, |installation| installation.version);
        Ok(format!("everything is there in {folder}, version {version}\n"))
    })
}

async fn serve(
    settings: &Settings,
    services: Vec<(Role, Telemetry)>,
    guard: &telemetry::Guard,
    shutdown: Shutdown,
    ready_file: Option<&Path>,
) -> anyhow::Result<End> {
    let listener = bind("http_addr", settings.http_addr).await?;
    let admin_listener = bind("admin_addr", settings.admin_addr).await?;
    let url = url_of(listener.local_addr()?);
    let admin_url = url_of(admin_listener.local_addr()?);

    let (clock, entropy) = chance();
    let stack = Stack::open(settings, Arc::clone(&clock), Arc::clone(&entropy)).await?;
    let health = Health::new();
    for needed in &stack.needed {
        health.needs(Arc::clone(needed));
    }
    for dependency in &stack.dependencies {
        health.depends_on(Arc::clone(dependency));
    }
    let root = Root {
        settings,
        stack: &stack,
        clock,
        entropy,
        health: health.clone(),
        secret: secret(settings, &stack).await?,
        public_url: settings.public_url.clone().unwrap_or_else(|| url.clone()),
    };
    let mut running = Running::new();
    let routers: Vec<_> = services
        .into_iter()
        .filter_map(|(role, telemetry)| root.start(role, telemetry, &shutdown, &mut running))
        .collect();
    // There is one api, or none; then nothing is to listen at its address.
    for (router, listener) in routers.into_iter().zip([listener]) {
        let (bounds, shutdown) = (settings.http.clone(), shutdown.clone());
        running.spawn(async move {
            http::serve(listener, router, bounds, shutdown).await;
            ("the http server", Ok(()))
        });
    }
    // Probes are answered for as long as anything runs: this server stops last.
    let admin_shutdown = Shutdown::new(ADMIN_GRACE);
    let admin_router = admin::router(health.clone(), guard.registry());
    let admin = http::serve(admin_listener, admin_router, settings.http.clone(), admin_shutdown.clone());

    let life = async {
        let announced = async {
            if let Err(error) = announce(settings, &stack, &health, guard, ready_file, &url, &admin_url).await
            {
                tracing::error!(error = format!("{error:#}"), "it cannot be told that the server is up");
            }
            std::future::pending::<()>().await;
        };
        let failed = tokio::select! {
            biased;
            failed = first_end(&mut running, &shutdown) => failed,
            () = announced => None,
        };
        shutdown.request();
        let rest = tokio::time::timeout(shutdown.grace(), drain(&mut running)).await;
        running.shutdown().await;
        admin_shutdown.request();
        match (failed, rest) {
            (Some(error), _) | (None, Ok(Err(error))) => Err(error),
            (None, Ok(Ok(()))) => Ok(End::Graceful),
            (None, Err(_)) => {
                tracing::warn!("the grace is over: what was still under way is cut off");
                Ok(End::Cut)
            }
        }
    };
    let (ended, ()) = tokio::join!(life, admin);
    stack.close().await;
    ended
}

/// Says that the server is up once it is ready: to people, to the log, and to whoever named a file.
async fn announce(
    settings: &Settings,
    stack: &Stack,
    health: &Health,
    guard: &telemetry::Guard,
    ready_file: Option<&Path>,
    url: &str,
    admin_url: &str,
) -> anyhow::Result<()> {
    let ready = tokio::time::timeout(READY, async {
        while !health.report().ready {
            tokio::time::sleep(READY_LOOK).await;
        }
    });
    let ready = ready.await.is_ok();
    if let Auth::Off { exposed: true } = settings.auth {
        tracing::warn!(
            address = %settings.http_addr,
            "TIDINGS_AUTH=off away from loopback: whoever reaches this address may publish, subscribe and read everything"
        );
    }
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        profile = settings.profile.as_str(),
        url,
        admin_url,
        spans = guard.endpoint().unwrap_or("nowhere"),
        ready,
        "up"
    );
    if let Some(path) = ready_file {
        write_whole(
            path,
            &json!({ "url": url, "admin_url": admin_url, "pid": std::process::id(), "ready": ready }),
        )?;
    }
    let (topics, counts) = (stack.catalog.topics().await?, stack.subscriptions.counts().await?);
    let banner = Banner { settings, url, admin_url, topics: &topics, counts: &counts };
    print(&banner.text()).map_err(|failure| anyhow!("{failure:?}"))
}

/// Writes a file that is never seen half-written.
fn write_whole(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, format!("{value:#}\n"))
        .and_then(|()| std::fs::rename(&unfinished, path))
        .with_context(|| format!("{} cannot be written", path.display()))
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

async fn secret(settings: &Settings, stack: &Stack) -> anyhow::Result<Secret> {
    let installation = stack.catalog.installation().await?.context("run `tidings provision` first")?;
    let (version, known) = (installation.version, INSTALLATION_VERSION);
    anyhow::ensure!(
        version <= known,
        "the store was provisioned in version {version} and this program knows {known}: start the newer program"
    );
    Ok(settings.secret.clone().unwrap_or(installation.secret))
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

fn chance() -> (Arc<dyn Clock>, Arc<dyn Entropy>) {
    (Arc::new(SystemClock), Arc::new(SystemEntropy))
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
