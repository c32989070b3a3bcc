//! Those who post: in every form, with a key and without, again and again where the outcome is open.

use serde_json::{Value, json};
use tidings_domain::message::TEXT_PLAIN;
use uuid::Uuid;

use super::Client;
use crate::{
    door::{NoAnswer, Reply},
    faults::POISON,
    ledger::{Accepted, Post, Said},
    plan::{KINDS, TOPICS},
};

/// How often a client sends a message with a key again before it gives up, its outcome open.
const PATIENT_TRIES: u32 = 40;

/// How a message is posted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
    /// A JSON value that is no string: kept as it is sent.
    JsonValue,
    Publishtopic,
}

impl Client {
    /// Posts one message.
    pub(crate) async fn post_one(&self) {
        let (form, said) = self.say();
        let key = (self.chance.below(2) == 0).then(|| format!("key-{}", self.ledger.number()));
        let place = self.ledger.post(key.clone(), said.clone());
        self.post_until_told(place, form, key.as_deref(), &said).await;
        if let Some(key) = key {
            // Someone who did not hear the answer, or does not trust it.
            if self.chance.below(4) == 0 {
                self.wait(3_000).await;
                self.post_once(place, form, Some(&key), &said).await;
            }
            // Someone who uses the key for something else.
            if self.chance.below(4) == 0 {
                self.wait(3_000).await;
                let other = Said { text: format!("{} but not the same", said.text), ..said };
                let form = if form == Form::JsonValue { Form::Json } else { form };
                let other = Said { content_type: content_type(form), ..other };
                let place = self.ledger.post(Some(key.clone()), other.clone());
                self.post_once(place, form, Some(&key), &other).await;
            }
        }
    }

    /// Posts a batch of NDJSON, each line with a key of its own or without one.
    pub(crate) async fn post_batch(&self) {
        let topic = TOPICS[self.pick(TOPICS.len())];
        let mut lines = Vec::new();
        let mut places = Vec::new();
        for _ in 0..=self.chance.below(5) {
            let (_, said) = self.say();
            let said = Said {
                topic,
                content_type: content_type(Form::Json),
                text: said.text.replace(['{', '}', '"', ':'], " "),
                ..said
            };
            let key = (self.chance.below(3) > 0).then(|| format!("key-{}", self.ledger.number()));
            let mut line = json_of(&said);
            if let Some(key) = &key {
                line["idempotency_key"] = json!(key);
            }
            places.push((self.ledger.post(key.clone(), said), key.is_some()));
            lines.push(line);
        }
        for _ in 0..PATIENT_TRIES {
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let path = format!("/v1/topics/{topic}/messages");
            let asked_at = self.ledger.position();
            let answer = self.send("POST", &path, &[("content-type", "application/x-ndjson")], body).await;
            let results = match &answer {
                Ok(reply) if reply.status == 200 => {
                    reply.json()["results"].as_array().cloned().unwrap_or_default()
                }
                Ok(reply) if matches!(reply.status, 503 | 404) => Vec::new(),
                Ok(reply) => return self.unexpected("a batch", reply),
                Err(_) => Vec::new(),
            };
            let answered_at = self.ledger.position();
            let mut again = Vec::new();
            for (at, (place, has_key)) in places.iter().enumerate() {
                let result = results.get(at).unwrap_or(&Value::Null);
                let id = result["id"]
                    .as_str()
                    .or(result["problem"]["id"].as_str())
                    .and_then(|id| Uuid::parse_str(id).ok());
                let refused = is_problem(&result["problem"], "refused-by-broker");
                let taken = result.get("id").is_some() && result.get("problem").is_none();
                self.ledger.with_post(*place, |post| {
                    if taken {
                        post.accepted.push(Accepted { asked_at, answered_at, id });
                    } else {
                        post.unknown = true;
                        post.unknown_ids.extend(id);
                    }
                });
                if !taken && !refused && *has_key {
                    again.push(at);
                }
            }
            if again.is_empty() {
                return;
            }
            lines = again.iter().map(|at| lines[*at].clone()).collect();
            places = again.iter().map(|at| places[*at]).collect();
            self.wait(5_000).await;
        }
    }

    /// Something that nobody has said.
    fn say(&self) -> (Form, Said) {
        let form = [Form::Text, Form::Json, Form::JsonValue, Form::Publishtopic][self.pick(4)];
        let topic = if form == Form::Publishtopic { TOPICS[0] } else { TOPICS[self.pick(TOPICS.len())] };
        let number = self.ledger.number();
        let padding = if self.chance.below(4) == 0 { "x".repeat(self.pick(1_500)) } else { String::new() };
        let has_beside = matches!(form, Form::Json | Form::JsonValue);
        let text = match form {
            Form::JsonValue => format!("{{\"said\": {number},  \"padding\":\"{padding}\"}}"),
            _ if self.chance.below(20) == 0 => format!("{POISON} {number}"),
            _ => format!("message {number} {padding}"),
        };
        let kind = (has_beside && self.chance.below(4) > 0).then(|| KINDS[self.pick(KINDS.len())]);
        let note = (kind.is_some() && self.chance.below(8) == 0).then(|| "n".repeat(1 + self.pick(900)));
        let subject = (has_beside && self.chance.below(2) == 0).then(|| format!("Subject {number}"));
        (form, Said { topic, text, subject, kind, note, content_type: content_type(form) })
    }

    async fn post_until_told(&self, place: usize, form: Form, key: Option<&str>, said: &Said) {
        for _ in 0..PATIENT_TRIES {
            if self.post_once(place, form, key, said).await || key.is_none() {
                return;
            }
            self.wait(6_000).await;
        }
    }

    /// One request; whether its outcome is known.
    async fn post_once(&self, place: usize, form: Form, key: Option<&str>, said: &Said) -> bool {
        let path = match form {
            Form::Publishtopic => "/publishtopic".to_owned(),
            _ => format!("/v1/topics/{}/messages", said.topic),
        };
        let body = match form {
            Form::Text | Form::Publishtopic => said.text.clone(),
            Form::Json => json_of(said).to_string(),
            Form::JsonValue => {
                let mut beside = json_of(said);
                beside["message"] = Value::Null;
                beside.to_string().replace("\"message\":null", &format!("\"message\":{}", said.text))
            }
        };
        let content_type = match form {
            Form::Text | Form::Publishtopic => "text/plain",
            Form::Json | Form::JsonValue => "application/json",
        };
        let mut headers = vec![("content-type", content_type)];
        headers.extend(key.map(|key| ("idempotency-key", key)));
        let asked_at = self.ledger.position();
        let answer = self.send("POST", &path, &headers, body).await;
        let answered_at = self.ledger.position();
        let json = answer.as_ref().map(Reply::json).unwrap_or_default();
        let id = json["id"].as_str().and_then(|id| Uuid::parse_str(id).ok());
        let status = answer.as_ref().map_or(0, |reply| reply.status);
        let another = is_problem(&json, "another-body");
        let too_large = is_problem(&json, "refused-by-broker");
        let change = |post: &mut Post| match status {
            202 | 200 => post.accepted.push(Accepted { asked_at, answered_at, id }),
            422 if another => post.refused = true,
            422 if too_large => {}
            _ => {
                post.unknown = true;
                post.unknown_ids.extend(id);
            }
        };
        self.ledger.with_post(place, change);
        match &answer {
            Ok(reply) if matches!(reply.status, 200 | 202) || another || too_large => true,
            // A topic that was not made yet.
            Ok(reply) if matches!(reply.status, 503 | 404) => false,
            Ok(reply) => {
                self.unexpected("a message", reply);
                true
            }
            Err(NoAnswer::Refused | NoAnswer::Reset | NoAnswer::GaveUp) => false,
        }
    }

    fn unexpected(&self, what: &str, reply: &Reply) {
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        self.ledger.fault(format!("{} to {what}: {text}", reply.status));
    }
}

/// Whether an answer is the problem of this type.
fn is_problem(json: &Value, kind: &str) -> bool {
    json["type"].as_str().and_then(|text| text.rsplit(':').next()) == Some(kind)
}

fn content_type(form: Form) -> &'static str {
    match form {
        Form::Text | Form::Publishtopic => "text/plain",
        Form::Json => TEXT_PLAIN,
        Form::JsonValue => "application/json",
    }
}

fn json_of(said: &Said) -> Value {
    let mut line = json!({ "message": said.text });
    if let Some(subject) = &said.subject {
        line["subject"] = json!(subject);
    }
    if let Some(kind) = said.kind {
        line["attributes"] = json!({ "kind": kind });
    }
    if let Some(note) = &said.note {
        line["attributes"]["note"] = json!(note);
    }
    line
}
