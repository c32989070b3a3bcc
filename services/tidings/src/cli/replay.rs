//! `tidings replay`.

use clap::{ArgGroup, Args};
use tidings_cdc_watcher::replay::{Recipients, Selection};
use tidings_domain::{id::MessageId, time::Timestamp, topic::TopicName};

use super::output::{Failure, print};
use crate::{
    operate::{self, Again},
    settings::Sources,
};

/// Publish stored messages again as notifications, so that those are mailed who have no mail of them yet, such as who
/// subscribed later. On embedded no server may run on the folder meanwhile; the next `tidings up` mails.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("which").required(true).multiple(true).args(["since", "until", "topic", "ids", "all"])))]
pub(crate) struct Replay {
    /// Those stored from this time on (RFC 3339).
    #[arg(long, value_parser = time)]
    since: Option<Timestamp>,
    /// Those stored before this time (RFC 3339).
    #[arg(long, value_parser = time)]
    until: Option<Timestamp>,
    /// Those of this topic.
    #[arg(long, value_parser = topic)]
    topic: Option<TopicName>,
    /// This message; may be said several times.
    #[arg(long = "id", value_name = "ID", value_parser = id, conflicts_with_all = ["since", "until", "topic", "all"])]
    ids: Vec<MessageId>,
    /// All that there are.
    #[arg(long, conflicts_with_all = ["since", "until", "topic"])]
    all: bool,
    /// Mail everyone once more, also who has the mail.
    #[arg(long)]
    again: bool,
    /// Print JSON, for scripts.
    #[arg(long)]
    json: bool,
}

impl Replay {
    pub(super) fn run(self, sources: &Sources) -> Result<(), Failure> {
        let Self { since, until, topic, ids, all: _, again, json } = self;
        let (settings, export) = super::operator(sources)?;
        let selection = match ids.is_empty() {
            true => Selection::Stored { topic, since, until },
            false => Selection::Ids(ids),
        };
        let recipients = if again { Recipients::Everyone } else { Recipients::NotYetMailed };
        let done = operate::publish_again(&settings, export, Again::Replay(selection, recipients))?;
        print(&if json { format!("{:#}\n", done.json()) } else { done.text() })?;
        done.failure().map_or(Ok(()), Err)
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "write a time such as 2026-05-04T10:00:00Z".to_owned())
}

fn topic(text: &str) -> Result<TopicName, String> {
    TopicName::parse(text).map_err(|error| error.to_string())
}

fn id(text: &str) -> Result<MessageId, String> {
    MessageId::parse(text).ok_or_else(|| "this is no id of a message: it is a UUID".to_owned())
}
