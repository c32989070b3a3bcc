//! What a person reads when the server starts: six lines, the last three to paste.

use std::collections::BTreeMap;

use tidings_domain::{
    subscription::SubscriptionCounts,
    topic::{Topic, TopicName},
};

use crate::settings::{Auth, Settings};

/// Topics that are named with their recipients; more are counted.
const NAMED_TOPICS: usize = 8;

/// What the banner tells.
pub(crate) struct Banner<'a> {
    /// What is in force.
    pub(crate) settings: &'a Settings,
    /// Where the API is reached from this machine.
    pub(crate) url: &'a str,
    /// Where health details and metrics are.
    pub(crate) admin_url: &'a str,
    /// The topics that there are.
    pub(crate) topics: &'a [Topic],
    /// Their subscriptions.
    pub(crate) counts: &'a BTreeMap<TopicName, SubscriptionCounts>,
}

impl Banner<'_> {
    /// The six lines.
    pub(crate) fn text(&self) -> String {
        let Self { settings, url, admin_url, .. } = self;
        let (version, profile) = (env!("CARGO_PKG_VERSION"), settings.profile.as_str());
        let key = match settings.auth {
            Auth::Off { .. } => "",
            Auth::Required => " -H \"Authorization: Bearer $TIDINGS_KEY\"",
        };
        let newest = format!(
            "$(curl -s{key} '{url}/v1/messages?limit=1' | grep -oE '[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}' | head -1)"
        );
        let lines = [
            format!(
                "tidings {version}, profile {profile}, listens on {url} (health and metrics on {admin_url})"
            ),
            self.mail(),
            self.recipients(),
            format!(
                "  subscribe:  curl -s{key} -H 'content-type: application/json' -d '{{\"email\":\"you@example.com\"}}' {url}/v1/topics/messages/subscriptions"
            ),
            format!("  publish:    curl -s{key} -d 'Hello' {url}/v1/topics/messages/messages"),
            format!("  its status: curl -s{key} \"{url}/v1/messages/{newest}?wait=10s\""),
        ];
        lines.join("\n") + "\n"
    }

    fn mail(&self) -> String {
        let from = self.settings.mail_from.as_str();
        match &self.settings.smtp {
            None => format!("mail is caught here and leaves for nowhere: read it at {}/mailbox", self.url),
            Some(smtp) => format!("mail goes to {}:{} by SMTP, from {from}", smtp.host, smtp.port),
        }
    }

    fn recipients(&self) -> String {
        let count = |topic: &Topic| self.counts.get(&topic.name).map_or(0, |counts| counts.confirmed);
        if self.topics.iter().all(|topic| count(topic) == 0) {
            let pending: u64 = self.counts.values().map(|counts| counts.pending).sum();
            let waiting = match pending {
                0 => String::new(),
                1 => " (one subscription waits to be confirmed)".to_owned(),
                more => format!(" ({more} subscriptions wait to be confirmed)"),
            };
            return format!(
                "no topic has a recipient yet, so nobody will get mail{waiting}: subscribe someone"
            );
        }
        let mut named: Vec<String> = self
            .topics
            .iter()
            .take(NAMED_TOPICS)
            .map(|topic| match count(topic) {
                0 => format!("{} 0 (nobody will get mail)", topic.name.as_str()),
                count => format!("{} {count}", topic.name.as_str()),
            })
            .collect();
        if let Some(more) = self.topics.len().checked_sub(NAMED_TOPICS + 1) {
            named.push(format!("{} more topics", more + 1));
        }
        format!("recipients by topic: {}", named.join(", "))
    }
}
