//! Telling that the server is up: to people, to the log, and to whoever named a file.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, anyhow};
use serde_json::json;
use tidings_runtime::health::{Health, PartState};

use crate::{
    banner::{Banner, Recipients},
    cli::output::print,
    profile::{Role, Stack},
    settings::{Auth, Settings},
};

/// How long the start waits for readiness before it says where it listens all the same.
const READY: Duration = Duration::from_secs(3);

/// How often it looks meanwhile, and for as long as it is not ready: in memory only.
const LOOK: Duration = Duration::from_millis(5);
const LATER_LOOK: Duration = Duration::from_millis(50);

/// Where a process is reached.
pub(super) struct Places<'a> {
    /// The services that it runs.
    pub(super) roles: &'a [Role],
    /// Where the API is; none in a process without it.
    pub(super) url: Option<&'a str>,
    /// Where health details and metrics are.
    pub(super) admin_url: &'a str,
    /// Where spans go.
    pub(super) spans: Option<&'a str>,
    /// The file that tells all this to scripts.
    pub(super) ready_file: Option<&'a Path>,
}

impl Places<'_> {
    /// Writes the file, where one is named: it is never seen half-written.
    pub(super) fn write(&self, ready: bool) -> anyhow::Result<()> {
        let Some(path) = self.ready_file else { return Ok(()) };
        let value = json!({
            "url": self.url,
            "admin_url": self.admin_url,
            "pid": std::process::id(),
            "ready": ready,
        });
        let unfinished = path.with_extension("unfinished");
        std::fs::write(&unfinished, format!("{value:#}\n"))
            .and_then(|()| std::fs::rename(&unfinished, path))
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// Waits a little for readiness and says that the server is up; goes on waiting where that was not enough.
pub(super) async fn announce(
    settings: &Settings,
    stack: &Stack,
    health: &Health,
    places: &Places<'_>,
) -> anyhow::Result<()> {
    let ready = tokio::time::timeout(READY, until_ready(health, LOOK)).await.is_ok();
    if let (Auth::Off { exposed: true }, Some(_)) = (settings.auth, places.url) {
        tracing::warn!(
            address = %settings.http_addr,
            "TIDINGS_AUTH=off away from loopback: whoever reaches this address may publish, subscribe and read everything"
        );
    }
    let roles: Vec<&str> = places.roles.iter().map(|role| role.as_str()).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        profile = settings.profile.as_str(),
        roles = roles.join(","),
        url = places.url.unwrap_or("none"),
        admin_url = places.admin_url,
        spans = places.spans.unwrap_or("nowhere"),
        ready,
        "up"
    );
    places.write(ready)?;
    let banner = Banner {
        settings,
        roles: places.roles,
        url: places.url,
        admin_url: places.admin_url,
        recipients: recipients(stack, places.roles).await,
        waits_for: (!ready).then(|| waits_for(health)),
    };
    print(&banner.text()).map_err(|failure| anyhow!("{failure:?}"))?;
    if !ready {
        until_ready(health, LATER_LOOK).await;
        tracing::info!("ready");
        places.write(true)?;
    }
    Ok(())
}

async fn until_ready(health: &Health, look: Duration) {
    while !health.report().ready {
        tokio::time::sleep(look).await;
    }
}

/// Who will get mail, where the banner tells of it and the store answers.
async fn recipients(stack: &Stack, roles: &[Role]) -> Option<Recipients> {
    if !Role::ALL.iter().all(|role| roles.contains(role)) {
        return None;
    }
    let read = async { Ok((stack.catalog.topics().await?, stack.subscriptions.counts().await?)) };
    let read: tidings_domain::Result<_> = read.await;
    match read {
        Ok((topics, counts)) => Some(Recipients { topics, counts }),
        Err(error) => {
            tracing::warn!(error = error.chain(), "who is subscribed cannot be told");
            None
        }
    }
}

/// What is waited for, by name.
fn waits_for(health: &Health) -> String {
    let report = health.report();
    let all = report.dependencies.into_iter().chain(report.parts);
    let named: Vec<String> = all
        .filter_map(|(name, state)| match state {
            PartState::Waiting(reason) | PartState::Stopped(reason) => Some(format!("{name} ({reason})")),
            _ => None,
        })
        .collect();
    named.join(", ")
}
