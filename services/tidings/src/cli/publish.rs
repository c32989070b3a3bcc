//! `tidings publish`.

use std::io::Read as _;

use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value};

use super::{
    client::{Client, shown},
    messages,
    output::Failure,
};

/// Publish a message.
#[derive(Debug, Args)]
pub(crate) struct Publish {
    #[command(flatten)]
    client: Client,
    /// The topic.
    #[arg(long, default_value = "messages")]
    topic: String,
    /// The subject of the mails.
    #[arg(long)]
    subject: Option<String>,
    /// An attribute that filters can ask for: true, false and numbers are what they look like, else it is a text. May
    /// be given several times; the same name again makes a list.
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = attribute)]
    attributes: Vec<(String, Value)>,
    /// An idempotency key: the same key is the same message, however often it is sent.
    #[arg(long = "idempotency-key", value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Wait until everyone is mailed, and show it.
    #[arg(long)]
    wait: bool,
    /// The message; - reads it from stdin.
    text: String,
}

impl Publish {
    pub(super) async fn run(self) -> Result<(), Failure> {
        let text = if self.text == "-" { stdin()? } else { self.text };
        let mut body = Map::new();
        body.insert("message".to_owned(), text.into());
        if let Some(subject) = self.subject {
            body.insert("subject".to_owned(), subject.into());
        }
        if !self.attributes.is_empty() {
            body.insert("attributes".to_owned(), collect(self.attributes).into());
        }
        let mut request =
            self.client.request(Method::POST, &["v1", "topics", &self.topic, "messages"])?.json(&body);
        if let Some(key) = self.idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let accepted = self.client.send(request).await?;
        if !self.wait {
            return self.client.print(&accepted, |accepted| format!("{}\n", shown(accepted, "id")));
        }
        let message = messages::wait(&self.client, &shown(&accepted, "id")).await?;
        self.client.print(&message, messages::describe)?;
        messages::verdict(&message)
    }
}

fn stdin() -> Result<String, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("stdin cannot be read as UTF-8 text: {error}")))?;
    Ok(text)
}

fn attribute(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("an attribute is NAME=VALUE")?;
    let value = match serde_json::from_str(value) {
        Ok(plain @ (Value::Bool(_) | Value::Number(_))) => plain,
        _ => value.into(),
    };
    Ok((name.to_owned(), value))
}

fn collect(attributes: Vec<(String, Value)>) -> Map<String, Value> {
    let mut collected = Map::new();
    for (name, value) in attributes {
        match collected.get_mut(&name) {
            None => {
                collected.insert(name, value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    collected
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_what_they_look_like() {
        let read = ["a=x", "n=1.5", "b=true", "a=y", "s=\"q\""].map(|text| attribute(text).unwrap());
        let expected = serde_json::json!({ "a": ["x", "y"], "n": 1.5, "b": true, "s": "\"q\"" });
        assert_eq!(Value::Object(collect(read.into())), expected);
        assert!(attribute("none").is_err());
    }
}
