//! `tidings health`: for people, and for the health check of a container.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use clap::Args;
use reqwest::StatusCode;
use serde_json::Value;

use super::output::{Failure, one_line, print, table};
use crate::{
    profile::Role,
    settings::{self, Scope, Sources, faults::Faults},
};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);

/// Ask a running server on this machine whether it is ready.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Which services it runs, as `tidings up` was told: they decide where its admin address is by default.
    services: Vec<Role>,
    /// Its admin address [default: that of the settings].
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl Health {
    pub(super) async fn run(self, sources: &Sources) -> Result<(), Failure> {
        let mut addr = match self.admin {
            Some(addr) => addr,
            None => {
                let mut faults = Faults::default();
                let layers = settings::layers(sources, &mut faults);
                settings::check(layers, Scope::Operate(&self.services), faults)
                    .map_err(Failure::usage)?
                    .admin_addr
            }
        };
        // A server that listens everywhere listens here.
        if addr.ip().is_unspecified() {
            addr.set_ip(match addr.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let unreachable = |error: reqwest::Error| {
            Failure::unreachable(format!("no answer from http://{addr}/readyz: {}", error.without_url()))
        };
        let client =
            reqwest::Client::builder().timeout(ANSWER).no_proxy().build().map_err(Failure::refused)?;
        let response = client.get(format!("http://{addr}/readyz")).send().await.map_err(unreachable)?;
        let status = response.status();
        let report: Value = response.json().await.map_err(unreachable)?;
        print(&if self.json { format!("{report:#}\n") } else { describe(status, &report) })?;
        if status == StatusCode::OK { Ok(()) } else { Err(Failure::refused("it is not ready")) }
    }
}

fn describe(status: StatusCode, report: &Value) -> String {
    let degraded = report.get("degraded") == Some(&Value::Bool(true));
    let words = match (status == StatusCode::OK, degraded) {
        (true, false) => "ready",
        (true, true) => "ready, degraded",
        (false, _) => "not ready",
    };
    let mut rows = Vec::new();
    for kind in ["parts", "dependencies"] {
        let Some(Value::Object(entries)) = report.get(kind) else { continue };
        for (name, state) in entries {
            let word = |member: &str| state.get(member).and_then(Value::as_str).unwrap_or_default();
            rows.push([name.clone(), word("state").to_owned(), one_line(word("reason"), 120)]);
        }
    }
    let notes = report.get("notes").and_then(Value::as_object).into_iter().flatten();
    let notes = notes.filter_map(|(name, note)| Some(format!("\nnote on {name}: {}\n", note.as_str()?)));
    format!("{words}\n{}{}", table(["PART", "STATE", "REASON"], &rows), notes.collect::<String>())
}
