//! `tidings messages`.

use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::Value;

use super::{
    client::{Client, data, more, shown},
    output::{Failure, one_line, table},
};

/// How long one call of `?wait` waits; the command calls again.
const WAIT: &str = "30s";

/// How often `--wait` asks for a message that is not done.
const ROUNDS: usize = 20;

/// Look at messages.
#[derive(Debug, Args)]
pub(crate) struct Messages {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List messages, newest first.
    List {
        #[command(flatten)]
        client: Client,
        /// Only of this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only those stored from this time on (RFC 3339).
        #[arg(long)]
        since: Option<String>,
        /// Only those stored before this time (RFC 3339).
        #[arg(long)]
        until: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Where to go on.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Show one message with its state, its timeline and its deliveries.
    Show {
        #[command(flatten)]
        client: Client,
        /// Wait until everyone is mailed.
        #[arg(long)]
        wait: bool,
        /// Its id.
        id: String,
    },
}

impl Messages {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::List { client, topic, since, until, limit, cursor } => {
                let query = [
                    ("topic", topic),
                    ("since", since),
                    ("until", until),
                    ("limit", Some(limit.to_string())),
                    ("cursor", cursor),
                ];
                let request = client.request(Method::GET, &["v1", "messages"])?.query(&query);
                let list = client.send(request).await?;
                client.print(&list, describe_list)
            }
            Command::Show { client, wait: true, id } => {
                let message = wait(&client, &id).await?;
                client.print(&message, describe)?;
                verdict(&message)
            }
            Command::Show { client, wait: false, id } => {
                let message = client.send(client.request(Method::GET, &["v1", "messages", &id])?).await?;
                client.print(&message, describe)
            }
        }
    }
}

/// Waits until a message is done or a dead letter, for some minutes at most; then what is known is given.
pub(super) async fn wait(client: &Client, id: &str) -> Result<Value, Failure> {
    let mut message = Value::Null;
    for _ in 0..ROUNDS {
        let request = client.request(Method::GET, &["v1", "messages", id])?;
        let answer = client.send(request.query(&[("wait", WAIT)]).timeout(Duration::from_secs(90))).await?;
        message = answer;
        if matches!(shown(&message, "state").as_str(), "done" | "dead_letter") {
            break;
        }
    }
    Ok(message)
}

/// Code 0 only for a message that is done.
pub(super) fn verdict(message: &Value) -> Result<(), Failure> {
    match shown(message, "state").as_str() {
        "done" => Ok(()),
        "dead_letter" => Err(Failure::refused(
            "it, or one of its mails, is a dead letter: `tidings dead-letters list` says why",
        )),
        state => {
            Err(Failure::refused(format!("it is still {state}: `tidings messages show ID --wait` waits on")))
        }
    }
}

/// A message in lines.
pub(super) fn describe(status: &Value) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("{name:14} {}\n", one_line(value, 300)));
        }
    };
    for name in ["id", "state", "summary"] {
        line(name, &shown(status, name));
    }
    if let Some(message) = status.get("message") {
        for name in ["topic", "subject", "message"] {
            line(name, &shown(message, name));
        }
        let attributes = shown(message, "attributes");
        line("attributes", if attributes == "{}" { "" } else { &attributes });
    }
    for section in ["timeline", "deliveries"] {
        let Some(Value::Object(entries)) = status.get(section) else { continue };
        for (name, _) in entries.iter().filter(|(_, value)| !value.is_null() && **value != 0) {
            line(name, &shown(&status[section], name));
        }
    }
    text
}

fn describe_list(list: &Value) -> String {
    let rows: Vec<_> = data(list)
        .iter()
        .map(|message| {
            [
                shown(message, "id"),
                shown(message, "topic"),
                shown(message, "stored_at"),
                one_line(&shown(message, "message"), 60),
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no messages\n".to_owned();
    }
    table(["ID", "TOPIC", "STORED", "MESSAGE"], &rows) + &more(list)
}
