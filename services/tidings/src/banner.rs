//! What a person reads when the server starts: six lines where all of it runs in this process, the last three to paste;
//! two or three where a part of it does.

use std::collections::BTreeMap;

use tidings_domain::{
    subscription::SubscriptionCounts,
    topic::{Topic, TopicName},
};

use crate::{
    profile::Role,
    settings::{Auth, Settings},
};

/// Topics that are named with their recipients; more are counted.
const NAMED_TOPICS: usize = 8;

/// Who will get mail.
pub(crate) struct Recipients {
    /// The topics that there are.
    pub(crate) topics: Vec<Topic>,
    /// Their subscriptions.
    pub(crate) counts: BTreeMap<TopicName, SubscriptionCounts>,
}

/// What the banner tells.
pub(crate) struct Banner<'a> {
    /// What is in force.
    pub(crate) settings: &'a Settings,
    /// The services of this process.
    pub(crate) roles: &'a [Role],
    /// Where the API is reached from this machine; none in a process without it.
    pub(crate) url: Option<&'a str>,
    /// Where health details and metrics are.
    pub(crate) admin_url: &'a str,
    /// Who will get mail, where that is known and told.
    pub(crate) recipients: Option<Recipients>,
    /// What is waited for, where it is not ready.
    pub(crate) waits_for: Option<String>,
}

impl Banner<'_> {
    /// The lines.
    pub(crate) fn text(&self) -> String {
        let Self { settings, admin_url, .. } = self;
        let (version, profile) = (env!("CARGO_PKG_VERSION"), settings.profile.as_str());
        let health = format!("health and metrics on {admin_url}");
        let mut lines = Vec::new();
        let is_whole = Role::ALL.iter().all(|role| self.roles.contains(role));
        let roles: Vec<&str> = self.roles.iter().map(|role| role.as_str()).collect();
        let who = if is_whole {
            format!("tidings {version}, profile {profile}")
        } else {
            format!("tidings {} {version}, profile {profile}", roles.join(", "))
        };
        lines.push(match self.url {
            Some(url) => format!("{who}, listens on {url} ({health})"),
            None => format!("{who}: {health}"),
        });
        if let Some(waits_for) = &self.waits_for {
            lines.push(format!("not ready yet: it waits for {waits_for}"));
        }
        if self.roles.contains(&Role::Mailer) {
            lines.push(self.mail());
        }
        if let Some(recipients) = &self.recipients {
            lines.push(recipients.text());
        }
        if let Some(url) = self.url {
            lines.extend(self.to_paste(url, is_whole));
        }
        lines.join("\n") + "\n"
    }

    /// What can be done now, by curl.
    fn to_paste(&self, url: &str, is_whole: bool) -> Vec<String> {
        let key = match self.settings.auth {
            Auth::Off { .. } => "",
            Auth::Required => " -H \"Authorization: Bearer $TIDINGS_KEY\"",
        };
        let publish = format!("  publish:    curl -s{key} -d 'Hello' {url}/v1/topics/messages/messages");
        if !is_whole {
            return vec![publish];
        }
        let newest = format!(
            "$(curl -s{key} '{url}/v1/messages?limit=1' | grep -oE '[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}' | head -1)"
        );
        vec![
            format!(
                "  subscribe:  curl -s{key} -H 'content-type: application/json' -d '{{\"email\":\"you@example.com\"}}' {url}/v1/topics/messages/subscriptions"
            ),
            publish,
            format!("  its status: curl -s{key} \"{url}/v1/messages/{newest}?wait=10s\""),
        ]
    }

    fn mail(&self) -> String {
        let from = self.settings.mail_from.as_str();
        match &self.settings.smtp {
            None => format!(
                "mail is caught here and leaves for nowhere: read it at {}/mailbox",
                self.url.unwrap_or_default()
            ),
            Some(smtp) => format!("mail goes to {}:{} by SMTP, from {from}", smtp.host, smtp.port),
        }
    }
}

impl Recipients {
    fn text(&self) -> String {
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
