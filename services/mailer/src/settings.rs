//! The mailer's settings.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings_domain::{address::EmailAddress, backoff::Backoff};
use tidings_runtime::consume::ConsumeSettings;

/// What becomes of a delivery whose outcome is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ambiguous {
    /// It is sent again: nobody misses a mail, someone may get one twice.
    #[default]
    Retry,
    /// It is given up with a dead letter: nobody gets a mail twice, a person decides.
    Hold,
}

/// Limits, waits, and what mails say of us.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The sender of every mail, also of its envelope.
    pub mail_from: EmailAddress,
    /// The name beside the sender's address; empty for none.
    pub mail_from_name: String,
    /// Where the api is reached from outside, for links in mails.
    pub public_url: String,
    /// Subscriptions that are planned in one transaction.
    pub page_size: u32,
    /// Deliveries that are under way at once.
    pub concurrency: u32,
    /// How long a delivery is held; a mailer that dies loses what it holds after that.
    pub lease_ms: u64,
    /// How often the table is asked for what is due when nothing else says so.
    pub poll_ms: u64,
    /// Attempts of a delivery before it is given up.
    pub attempts: u32,
    /// The wait before the second attempt.
    pub retry_first_s: u64,
    /// The longest wait between attempts.
    pub retry_most_s: u64,
    /// The first wait before an absent mail server or store is tried again.
    pub outage_first_ms: u64,
    /// The longest such wait.
    pub outage_most_ms: u64,
    /// What becomes of a delivery whose outcome is unknown.
    pub ambiguous: Ambiguous,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mail_from: EmailAddress::parse("tidings@localhost.localdomain")
                .expect("the default is an address"),
            mail_from_name: "Tidings".to_owned(),
            public_url: "http://127.0.0.1:8080".to_owned(),
            page_size: 500,
            concurrency: 256,
            lease_ms: 60_000,
            poll_ms: 1_000,
            attempts: 10,
            retry_first_s: 30,
            retry_most_s: 4 * 60 * 60,
            outage_first_ms: 500,
            outage_most_ms: 30_000,
            ambiguous: Ambiguous::Retry,
        }
    }
}

impl Settings {
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub(crate) fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    /// The waits between attempts.
    pub(crate) fn retry(&self) -> Backoff {
        Backoff {
            first: Duration::from_secs(self.retry_first_s),
            most: Duration::from_secs(self.retry_most_s),
        }
    }

    /// The waits while the mail server or the store is away.
    pub(crate) fn outage(&self) -> Backoff {
        Backoff {
            first: Duration::from_millis(self.outage_first_ms),
            most: Duration::from_millis(self.outage_most_ms),
        }
    }

    /// How notifications are taken.
    pub(crate) fn consume(&self) -> ConsumeSettings {
        ConsumeSettings::default()
    }
}
