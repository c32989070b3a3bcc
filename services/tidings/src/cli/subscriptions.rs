//! `tidings subscriptions`.

use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value};

use super::{
    client::{Client, data, more, shown},
    output::{Failure, one_line, table},
};

/// Look at and change who is subscribed.
#[derive(Debug, Args)]
pub(crate) struct Subscriptions {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Subscribe an address; it gets a mail with a link that confirms it.
    Add {
        #[command(flatten)]
        client: Client,
        /// The topic.
        #[arg(long, default_value = "messages")]
        topic: String,
        /// Which messages, as JSON: attribute names to lists of values, such as {"customer": ["blue"]}.
        #[arg(long, value_name = "JSON", value_parser = json)]
        filter: Option<Value>,
        /// Consent is held already: no mail, confirmed at once. Needs an admin key.
        #[arg(long)]
        confirmed: bool,
        /// The address.
        email: String,
    },
    /// List subscriptions, newest first.
    List {
        #[command(flatten)]
        client: Client,
        /// Only of this topic.
        #[arg(long)]
        topic: Option<String>,
        /// Only of this address.
        #[arg(long)]
        email: Option<String>,
        /// Only in this state: pending, confirmed, unsubscribed.
        #[arg(long)]
        state: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Where to go on.
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Remove a subscription and with it the address.
    Remove {
        #[command(flatten)]
        client: Client,
        /// Its id.
        id: String,
    },
}

impl Subscriptions {
    pub(super) async fn run(self) -> Result<(), Failure> {
        match self.command {
            Command::Add { client, topic, filter, confirmed, email } => {
                let mut body = Map::new();
                body.insert("email".to_owned(), email.into());
                if let Some(filter) = filter {
                    body.insert("filter".to_owned(), filter);
                }
                if confirmed {
                    body.insert("confirmed".to_owned(), true.into());
                }
                let request =
                    client.request(Method::POST, &["v1", "topics", &topic, "subscriptions"])?.json(&body);
                let answer = client.send(request).await?;
                client.print(&answer, |_| {
                    if confirmed {
                        "subscribed\n".to_owned()
                    } else {
                        "the address gets a mail with a link that confirms it\n".to_owned()
                    }
                })
            }
            Command::List { client, topic, email, state, limit, cursor } => {
                let query = [
                    ("topic", topic),
                    ("email", email),
                    ("state", state),
                    ("limit", Some(limit.to_string())),
                    ("cursor", cursor),
                ];
                let request = client.request(Method::GET, &["v1", "subscriptions"])?.query(&query);
                let list = client.send(request).await?;
                client.print(&list, describe_list)
            }
            Command::Remove { client, id } => {
                let answer =
                    client.send(client.request(Method::DELETE, &["v1", "subscriptions", &id])?).await?;
                client.print(&answer, |_| "removed\n".to_owned())
            }
        }
    }
}

fn json(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

fn describe_list(list: &Value) -> String {
    let rows: Vec<_> = data(list)
        .iter()
        .map(|row| {
            let filter = shown(row, "filter");
            [
                shown(row, "id"),
                shown(row, "topic"),
                one_line(&shown(row, "email"), 60),
                shown(row, "state"),
                if filter == "{}" { String::new() } else { one_line(&filter, 60) },
            ]
        })
        .collect();
    if rows.is_empty() {
        return "no subscriptions\n".to_owned();
    }
    table(["ID", "TOPIC", "EMAIL", "STATE", "FILTER"], &rows) + &more(list)
}
