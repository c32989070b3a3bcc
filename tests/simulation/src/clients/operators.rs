//! Those who look after what cannot go on: they list, redrive and discard.

use serde_json::{Value, json};
use tidings_domain::{
    dead_letter::{DeadLetter, DeadLetterSelection},
    id::DeadLetterId,
    page::PageRequest,
};

use super::Client;

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

impl Client {
    /// Makes a topic.
    pub(crate) async fn make_topic(&self, name: &str) {
        let reply = self.insist("PUT", &format!("/v1/topics/{name}"), &JSON, "{}").await;
        if !matches!(reply.status, 200 | 201) {
            self.ledger.fault(format!("{} to making a topic: {}", reply.status, reply.json()));
        }
    }

    /// Redrives all of one queue, or some letters by their ids.
    pub(crate) async fn redrive(&self) {
        let queue = ["items", "changes", "mail", "deliveries"][self.pick(4)];
        let selection = match self.chance.below(2) {
            0 => json!({ "queue": queue }),
            _ => json!({ "all": true }),
        };
        let _unknown = self.send("POST", "/v1/dead-letters/redrive", &JSON, selection.to_string()).await;
    }

    /// Lists, and discards one that it saw.
    pub(crate) async fn discard(&self) {
        let Ok(reply) = self.send("GET", "/v1/dead-letters?limit=20", &[], "").await else { return };
        let listed = reply.json();
        let ids: Vec<String> = listed["data"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|letter| letter["id"].as_str().map(str::to_owned))
            .collect();
        let Some(id) = ids.first() else { return };
        let Some(letter) = self.letter(id).await else { return };
        self.ledger.lock().discarded.entry(letter.id).or_default().push(letter);
        let selection: Value = json!({ "ids": [id] });
        let _unknown = self.send("POST", "/v1/dead-letters/discard", &JSON, selection.to_string()).await;
    }

    /// The letter as it is, whole: the list shows bodies as text.
    async fn letter(&self, id: &str) -> Option<DeadLetter> {
        let selection = DeadLetterSelection {
            ids: Some(vec![DeadLetterId::parse(id)?]),
            ..DeadLetterSelection::default()
        };
        let page = self.memory.dead_letters().list(&selection, &PageRequest::default()).await;
        page.ok()?.data.pop()
    }
}
