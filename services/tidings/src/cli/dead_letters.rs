//! `tidings dead-letters`.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value};

use super::{
    client::{Client, data, more, shown},
    output::{Failure, one_line, table},
};

/// Look at what cannot go on, run it again or drop it.
#[derive(Debug, Args)]
pub(crate) struct DeadLetters {
    #[command(subcommand)]
    command: Command,
}

/// Which dead letters; what is not given does not restrict.
#[derive(Debug, Args)]
struct Selection {
    /// Only from this queue: items, changes, mail, deliveries.
    #[arg(long)]
    queue: Option<String>,
    /// Only of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Only with this reason.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters, newest first, each with its reason.
    List {
        #[command(flatten)]
        client: Client,
        #[command(flatten)]
        selection: Selection,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Where to go on.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Run dead letters through their service again.
    Redrive(Act),
    /// Drop dead letters for good.
    Discard(Act),
}

#[derive(Debug, Args)]
struct Act {
    #[command(flatten)]
    client: Client,
    #[command(flatten)]
    selection: Selection,
    /// Only count them.
    #[arg(long)]
    dry_run: bool,
    /// All that there are.
    #[arg(long, conflicts_with_all = ["queue", "topic", "reason", "ids"])]
    all: bool,
    /// Only these ids.
    ids: Vec<String>,
}

impl DeadLetters {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::List { client, selection, limit, cursor } => {
                let query = [
                    ("queue", selection.queue),
                    ("topic", selection.topic),
                    ("reason", selection.reason),
                    ("limit", Some(limit.to_string())),
                    ("cursor", cursor),
                ];
                let request = client.request(Method::GET, &["v1", "dead-letters"])?.query(&query);
                let list = client.send(request).await?;
                client.print(&list, describe_list)
            }
            Command::Redrive(act) => act.run("redrive").await,
            Command::Discard(act) => act.run("discard").await,
        }
    }
}

impl Act {
    async fn run(self, act: &str) -> Result<(), Failure> {
        let Selection { queue, topic, reason } = self.selection;
        let mut body = Map::new();
        for (name, value) in [("queue", queue), ("topic", topic), ("reason", reason)] {
            if let Some(value) = value {
                body.insert(name.to_owned(), value.into());
            }
        }
        if !self.ids.is_empty() {
            body.insert("ids".to_owned(), self.ids.into());
        }
        if self.all {
            body.insert("all".to_owned(), true.into());
        }
        if body.is_empty() {
            return Err(Failure::usage(format!(
                "say which to {act}: ids, --queue, --topic, --reason, or --all"
            )));
        }
        if self.dry_run {
            body.insert("dry_run".to_owned(), true.into());
        }
        let request = self.client.request(Method::POST, &["v1", "dead-letters", act])?.json(&body);
        let answer = self.client.send(request).await?;
        self.client.print(&answer, |answer| match answer.get("count") {
            Some(count) if self.dry_run => {
                format!("{count} would be {act}ed, nothing is changed\n").replace("eed", "ed")
            }
            Some(count) => {
                format!("{count} {}\n", if act == "redrive" { "marked to run again" } else { "dropped" })
            }
            None => format!("{answer}\n"),
        })
    }
}

fn describe_list(list: &Value) -> String {
    let rows: Vec<_> = data(list)
        .iter()
        .map(|row| {
            let mark = if shown(row, "marked_at").is_empty() { "" } else { "marked" };
            [
                shown(row, "id"),
                shown(row, "queue"),
                shown(row, "topic"),
                shown(row, "reason"),
                shown(row, "created_at"),
                mark.to_owned(),
                one_line(&shown(row, "detail"), 80),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no dead letters\n".to_owned();
    }
    table(["ID", "QUEUE", "TOPIC", "REASON", "SINCE", "REDRIVE", "DETAIL"], &rows) + &more(list)
}
