//! What was accepted, held against what was stored and mailed.
#![expect(clippy::print_stdout, reason = "what a run has seen is shown with --nocapture")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

use super::super::stack::Stack;

/// How long nothing may move: longer than a lease of 50 s, which whatever a lost answer has leased waits for.
const PATIENCE: Duration = Duration::from_secs(90);

/// How often the store is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Everything that was answered with 202.
pub(super) struct Ledger {
    /// Texts by id.
    accepted: BTreeMap<String, String>,
    /// How often what was answered instead.
    refused: BTreeMap<String, usize>,
    /// Messages that may be lost, or not: nothing of them is looked at.
    excused: BTreeSet<String>,
}

/// A delivery as its row tells it.
struct Row {
    item: String,
    message_id: String,
    state: String,
    attempts: usize,
    unknowns: usize,
}

/// What a run has come to.
#[derive(Debug)]
pub(super) struct Figures {
    pub(super) accepted: usize,
    /// Mails that the mail server took.
    pub(super) mails: usize,
    /// Mails beyond the first of a delivery.
    pub(super) doubled: usize,
    /// Attempts that were counted as unknown.
    pub(super) unknowns: usize,
    /// The most attempts of a delivery.
    pub(super) most_attempts: usize,
    /// Deliveries that were given up.
    pub(super) failed: usize,
    pub(super) dead_letters: Vec<Value>,
}

impl Ledger {
    pub(super) fn new(accepted: BTreeMap<String, String>, refused: BTreeMap<String, usize>) -> Self {
        Self { accepted, refused, excused: BTreeSet::new() }
    }

    /// Another message that has to be there, posted by somebody else.
    pub(super) fn add(&mut self, id: &str, text: &str) {
        self.accepted.insert(id.to_owned(), text.to_owned());
    }

    /// A message that fell into a gap: it may be there or not.
    pub(super) fn excuse(&mut self, id: &str) {
        self.excused.insert(id.to_owned());
    }

    /// Waits until everything is stored, and nothing is left to do. Patience begins anew with each step forward.
    pub(super) async fn settled(&self, stack: &Stack) {
        let (mut last, mut moved_at) = (String::new(), Instant::now());
        loop {
            let counts = stack
                .psql(
                    "select (select count(*) from items),
                        (select count(*) from notifications where finished),
                        (select count(*) from deliveries where state in ('pending', 'sending')),
                        (select count(*) from deliveries)",
                )
                .await;
            let numbers: Vec<usize> = counts.split('|').map(|number| number.parse().unwrap()).collect();
            let [items, notified, open, _] = numbers[..] else { panic!("{counts}") };
            if items >= self.accepted.len() && notified == items && open == 0 {
                return;
            }
            if counts != last {
                (last, moved_at) = (counts, Instant::now());
            }
            if moved_at.elapsed() >= PATIENCE {
                let open =
                    "select now(), d.* from deliveries d where state in ('pending', 'sending') limit 5";
                panic!(
                    "nothing moves: {} accepted; items|notified|open|deliveries: {last}\n{}\n{}",
                    self.accepted.len(),
                    stack.psql(open).await,
                    trouble(stack),
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until it is settled, and holds it against what is there, with so many `recipients` of each message: every message
    /// stored once with its text and nothing else; each mailed at least once or a dead letter; twice only as often as
    /// counted *unknown*.
    pub(super) async fn balances(&self, stack: &Stack, recipients: usize) -> Figures {
        self.settled(stack).await;
        self.stored(stack).await;
        let figures = self.mailed(stack, recipients).await;
        println!(
            "{}: {} accepted, refused {:?}, {} mails, {} doubled, {} unknown, {} failed, at most {} attempts, \
             {} dead letters",
            stack.namespace,
            figures.accepted,
            self.refused,
            figures.mails,
            figures.doubled,
            figures.unknowns,
            figures.failed,
            figures.most_attempts,
            figures.dead_letters.len(),
        );
        figures
    }

    async fn stored(&self, stack: &Stack) {
        let rows = stack.psql("select id || ' ' || message from items").await;
        let stored: BTreeMap<&str, &str> = rows.lines().filter_map(|line| line.split_once(' ')).collect();
        let lost: Vec<_> = self
            .accepted
            .iter()
            .filter(|(id, text)| stored.get(id.as_str()) != Some(&text.as_str()))
            .collect();
        assert!(lost.is_empty(), "accepted and not stored: {lost:?}\n{}", trouble(stack));
        let phantoms: Vec<_> = stored
            .iter()
            .filter(|(id, _)| !self.accepted.contains_key(**id) && !self.excused.contains(**id))
            .collect();
        assert!(phantoms.is_empty(), "stored and never accepted: {phantoms:?}");
    }

    async fn mailed(&self, stack: &Stack, recipients: usize) -> Figures {
        let rows = self.deliveries(stack).await;
        let mut planned: BTreeMap<&str, usize> = BTreeMap::new();
        for row in &rows {
            *planned.entry(&row.item).or_default() += 1;
        }
        for id in self.accepted.keys() {
            let count = planned.get(id.as_str()).copied().unwrap_or_default();
            assert_eq!(count, recipients, "deliveries of {id}\n{}", trouble(stack));
        }
        let (mut taken, mut count): (BTreeMap<String, usize>, usize) = Default::default();
        for mail in stack.smtp.mails() {
            let id = mail.header("Message-ID").unwrap();
            let id = id.trim_start_matches('<').split('@').next().unwrap().to_owned();
            let row = rows.iter().find(|row| row.message_id == id);
            let Some(row) = row else {
                let excused = self.excused.iter().any(|item| id.starts_with(&item.replace('-', "")));
                assert!(excused, "a mail of no delivery: {}", mail.text());
                continue;
            };
            let text = &self.accepted[&row.item];
            assert!(mail.text().contains(text.as_str()), "not {text:?}: {}", mail.text());
            *taken.entry(id).or_default() += 1;
            count += 1;
        }
        let mut doubled = 0;
        for row in &rows {
            let mails = taken.get(&row.message_id).copied().unwrap_or_default();
            let Row { item, state, unknowns, .. } = row;
            assert!(["sent", "failed"].contains(&state.as_str()), "{state}, a delivery of {item}");
            assert!(mails >= 1 || state == "failed", "{state} and not mailed: {item}\n{}", trouble(stack));
            let beyond = if state == "failed" { mails } else { mails - 1 };
            assert!(
                beyond <= *unknowns,
                "{state} by {mails} mails with {unknowns} unknowns: {item}\n{}",
                trouble(stack)
            );
            doubled += mails.saturating_sub(1);
        }
        let failed = rows.iter().filter(|row| row.state == "failed").count();
        let letters = stack.psql("select count(*) from dead_letters where source = 'deliveries'").await;
        assert_eq!(letters, failed.to_string(), "each delivery that was given up has its dead letter");
        Figures {
            accepted: self.accepted.len(),
            mails: count,
            doubled,
            unknowns: rows.iter().map(|row| row.unknowns).sum(),
            most_attempts: rows.iter().map(|row| row.attempts).max().unwrap_or_default(),
            failed,
            dead_letters: stack.dead_letters().await,
        }
    }

    async fn deliveries(&self, stack: &Stack) -> Vec<Row> {
        let rows = stack
            .psql(
                "select about, replace(about::text || '.' || subscription, '-', '') || '.' || round, state, attempts, \
                 unknowns from deliveries where kind = 'item'",
            )
            .await;
        rows.lines()
            .map(|line| {
                let columns: Vec<&str> = line.split('|').collect();
                let [item, message_id, state, attempts, unknowns] = columns[..] else { panic!("{line}") };
                Row {
                    item: item.to_owned(),
                    message_id: message_id.to_owned(),
                    state: state.to_owned(),
                    attempts: attempts.parse().unwrap(),
                    unknowns: unknowns.parse().unwrap(),
                }
            })
            .filter(|row| !self.excused.contains(&row.item))
            .collect()
    }
}

/// The last warnings and errors of all processes.
fn trouble(stack: &Stack) -> String {
    let log = stack.log();
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}
