//! Those who want mails: they ask, find the link in the mail that comes, and confirm; later some want no more.

use std::{sync::atomic::Ordering, time::Duration};

use serde_json::json;
use tidings_memory::TakenMail;

use super::Client;
use crate::{links, plan::Person};

/// How often a recipient looks into the mailbox.
const LOOK: Duration = Duration::from_millis(700);

impl Client {
    /// Asks for a subscription and sees it through.
    pub(crate) async fn subscribe(&self, person: &Person) {
        let mut wish = json!({ "email": person.email });
        if let Some(wants) = &person.wants {
            wish["filter"] = json!({ "kind": wants });
        }
        if person.by_admin {
            wish["confirmed"] = json!(true);
        }
        let path = format!("/v1/topics/{}/subscriptions", person.topic);
        let headers = [("content-type", "application/json")];
        loop {
            let reply = self.insist("POST", &path, &headers, &wish.to_string()).await;
            match reply.status {
                202 => break,
                // The topic is not made yet.
                404 => self.wait(4_000).await,
                status => return self.ledger.fault(format!("{status} to a subscription: {}", reply.json())),
            }
        }
        if !person.by_admin {
            self.confirm(person).await;
        }
    }

    /// Confirms by the newest mail's link; an older one may be dead. Waits for ever where no mail comes.
    async fn confirm(&self, person: &Person) {
        let mut used = Vec::new();
        loop {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(LOOK).await;
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            let links = self.mails_to(person).iter().rev().filter_map(links::confirm).collect::<Vec<_>>();
            let Some(path) = links.into_iter().find(|path| !used.contains(path)) else { continue };
            // A mail scanner opens the link; that does nothing.
            if self.chance.below(3) == 0 {
                self.insist("GET", &path, &[], "").await;
            }
            let reply = self.insist("POST", &path, &[], "").await;
            if reply.status == 200 {
                return;
            }
            used.push(path);
        }
    }

    /// Wants no more, by the link of a mail. Whether there was one.
    pub(crate) async fn unsubscribe(&self, person: &Person) {
        let mails = self.mails_to(person);
        let Some(path) = mails.iter().rev().find_map(links::unsubscribe) else { return };
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        let reply = self.insist("POST", &path, &headers, "List-Unsubscribe=One-Click").await;
        if reply.status != 200 {
            self.ledger.fault(format!("{} to an unsubscribe link: {}", reply.status, reply.json()));
        }
    }

    fn mails_to(&self, person: &Person) -> Vec<TakenMail> {
        self.memory.mails().into_iter().filter(|mail| mail.envelope.to.as_str() == person.email).collect()
    }
}
