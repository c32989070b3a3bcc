//! The keeper of what this process uses (promise 2), also where no api runs: whose binding is gone while another party's queue is
//! bound loses what is published in silence.
//!
//! Where somebody in this process asks for topics to be verified (the api), these are theirs to look after, and theirs to count.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tidings_domain::{
    ErrorKind, Result,
    ports::{BusTopic, MissingTopology, Queue},
};
use tokio::time::{Instant, sleep, timeout_at};

use crate::{
    names::queue_of,
    topology::RabbitTopology,
    usage::{Usage, Used},
};

/// How often is looked: promise 2 names it.
const EVERY: Duration = Duration::from_secs(5);

/// What publishes find missing is made to stand at most so often.
const PACE: Duration = Duration::from_secs(1);

/// Looks after exchanges, queues and bindings.
pub(crate) struct Keeper {
    topology: Arc<RabbitTopology>,
    usage: Arc<Usage>,
    /// Missing at the last look, and left to whoever publishes there.
    suspected: BTreeSet<String>,
    /// When all was last seen to stand.
    stood: Option<Instant>,
    /// What was last said of a look that failed.
    said: Option<String>,
}

impl Keeper {
    pub(crate) fn new(topology: Arc<RabbitTopology>, usage: Arc<Usage>) -> Self {
        Self { topology, usage, suspected: BTreeSet::new(), stood: None, said: None }
    }

    /// Looks again and again, and mends at once what publishes find missing.
    pub(crate) async fn run(mut self) {
        let usage = Arc::clone(&self.usage);
        let mut next = Instant::now() + EVERY;
        loop {
            let outcome = match timeout_at(next, usage.missing()).await {
                Ok(topics) => self.mend(topics).await,
                Err(_) => {
                    let outcome = self.look().await;
                    next = Instant::now() + EVERY;
                    outcome
                }
            };
            self.say(outcome);
            sleep(PACE).await;
        }
    }

    /// What cannot be done now is done later. The connection's own end is said by its link.
    fn say(&mut self, outcome: Result<()>) {
        let Err(error) = outcome else {
            self.said = None;
            return;
        };
        let said = error.chain();
        if error.kind == ErrorKind::Unavailable || self.said.as_ref() == Some(&said) {
            tracing::debug!(error = said, "cannot look after exchanges, queues and bindings");
        } else {
            tracing::warn!(error = said, "cannot look after exchanges, queues and bindings");
        }
        self.said = Some(said);
    }

    async fn mend(&self, topics: BTreeSet<BusTopic>) -> Result<()> {
        let attended = self.topology.attended();
        for topic in topics {
            // Whoever looks after it publishes to it, and declares it anew.
            if matches!(&topic, BusTopic::Messages(name) if attended.as_ref().is_some_and(|all| all.contains(name)))
            {
                continue;
            }
            self.topology.stand(std::slice::from_ref(&topic), &with_net(queue_of(&topic))).await?;
            self.topology.metrics.missing(1);
            tracing::error!(
                exchange = self.topology.names.exchange(&topic),
                "a publish found the exchange or its binding missing: declared anew"
            );
        }
        Ok(())
    }

    /// One look at all that is used.
    async fn look(&mut self) -> Result<()> {
        let used = self.usage.snapshot();
        let listed = match used.consumed.contains(&Queue::Items) {
            true => self.topology.listed().await,
            false => BTreeSet::new(),
        };
        let topics: Vec<_> = self.topics(&used, &listed).into_iter().collect();
        let queues = topics.iter().map(queue_of).chain(used.consumed.iter().copied());
        let queues: BTreeSet<_> = queues.flat_map(with_net).collect();
        let (ours, queues) = match self.topology.attended() {
            None => (topics.clone(), queues.into_iter().collect()),
            Some(attended) => {
                // Of the others those that stand; what does not is nobody's any more.
                let is_ours = |topic: &&BusTopic| {
                    let is_attended = matches!(topic, BusTopic::Messages(name) if attended.contains(name));
                    !is_attended && listed.contains(&self.topology.names.exchange(topic))
                };
                let ours: Vec<_> = topics.iter().filter(is_ours).cloned().collect();
                let queues = if ours.is_empty() { Vec::new() } else { vec![Queue::Items] };
                (ours, queues)
            }
        };
        let began = Instant::now();
        let missing = match queues.is_empty() {
            true => Vec::new(),
            false => self.topology.look(&ours, &queues, &listed).await?,
        };
        if self.is_to_mend(&used, &missing) {
            self.topology.stand(&ours, &queues).await?;
            self.topology.metrics.missing(missing.len());
            for thing in &missing {
                tracing::error!(
                    name = thing.name,
                    stood_s_ago = self.stood.map(|stood| stood.elapsed().as_secs()),
                    "found missing: what was published since it stood may be lost to us"
                );
            }
            self.suspected.clear();
        } else {
            self.suspected = missing.into_iter().map(|thing| thing.name).collect();
            if !topics.is_empty() && self.topology.is_blind() {
                self.topology.bind_blindly(&topics).await?;
            }
        }
        if self.suspected.is_empty() {
            self.stood = Some(began);
        }
        Ok(())
    }

    /// What is published to here is mended at once. What is only consumed is left for one look to those who publish it: they know
    /// better, and it may be about to be made.
    fn is_to_mend(&self, used: &Used, missing: &[MissingTopology]) -> bool {
        let published: BTreeSet<_> =
            used.published.iter().flat_map(|topic| self.topology.names.things(topic)).collect();
        missing.iter().any(|thing| published.contains(&thing.name) || self.suspected.contains(&thing.name))
    }

    /// What is published to, and what reaches the queues that are consumed. `listed`: exchanges that stand.
    fn topics(&self, used: &Used, listed: &BTreeSet<String>) -> BTreeSet<BusTopic> {
        let mut topics = used.published.clone();
        if used.consumed.contains(&Queue::Mail) {
            topics.insert(BusTopic::Notifications);
        }
        if used.consumed.contains(&Queue::Items) {
            // Of those that are listed none is missed that somebody has deleted.
            let exchanges = if listed.is_empty() { &used.exchanges } else { listed };
            let named = exchanges.iter().filter_map(|exchange| self.topology.names.topic_of(exchange));
            topics.extend(named.chain(self.topology.asked_topics()).map(BusTopic::Messages));
        }
        topics
    }
}

/// A queue and what the broker moves its messages to.
fn with_net(queue: Queue) -> Vec<Queue> {
    std::iter::once(queue).chain(queue.safety_net()).collect()
}
