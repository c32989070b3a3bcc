//! One window of publishes on a channel of its own, and what becomes of each.

use std::{
    collections::BTreeSet,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use lapin::{
    Channel, Confirmation, ExchangeKind, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::{FieldTable, ShortString},
};
use tidings_domain::{Error, ErrorKind, Result, ports::BusTopic};
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    failure,
    link::{CHANNEL_TIMEOUT, Live},
    message::Outgoing,
    names::short,
    publisher::{Publisher, Request},
};

const PUBLISH: BasicPublishOptions = BasicPublishOptions { mandatory: true, immediate: false };

type Sending<'a> = Pin<Box<dyn Future<Output = lapin::Result<PublisherConfirm>> + Send + 'a>>;

/// What is known of one publish.
enum Fate<'a> {
    /// The library takes it; dropped, it may still be sent.
    Sending(Sending<'a>),
    /// Sent, or about to be.
    Sent(PublisherConfirm),
    /// Whether it was taken, and what came back meanwhile: this one or a neighbour, by its id if it has one.
    Confirmed(bool, Option<Option<ShortString>>),
    /// Never handed to the broker.
    NotSent(lapin::Error),
    /// Its channel ended before the confirm.
    Lost(lapin::Error),
    /// Refused here.
    Refused(Error),
}

/// A channel for windows to one exchange, one at a time.
pub(crate) struct Window {
    publisher: Arc<Publisher>,
    topic: BusTopic,
    exchange: String,
    channel: Option<(u64, Channel)>,
}

impl Window {
    pub(crate) fn new(publisher: Arc<Publisher>, topic: BusTopic, exchange: String) -> Self {
        Self { publisher, topic, exchange, channel: None }
    }

    /// Publishes all of `requests`, if it is ready, and answers each.
    pub(crate) async fn send(&mut self, ready: Result<(Arc<Live>, Channel)>, requests: Vec<Request>) {
        let mut all = Vec::new();
        let mut answers = Vec::with_capacity(requests.len());
        for request in requests {
            answers.push((request.entries.len(), request.answer));
            all.extend(request.entries);
        }
        if all.is_empty() {
            return;
        }
        let mut outcomes = match ready {
            Ok((live, channel)) => self.publish(&live, &channel, all).await,
            Err(error) => failure::each(&error, all.len()),
        };
        self.count(&outcomes);
        for (count, answer) in answers {
            let rest = outcomes.split_off(count);
            // A caller who has gone needs no answer.
            let _ = answer.send(std::mem::replace(&mut outcomes, rest));
        }
    }

    fn count(&self, outcomes: &[Result<()>]) {
        let metrics = &self.publisher.metrics;
        metrics.confirmed(outcomes.iter().filter(|outcome| outcome.is_ok()).count());
        for error in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
            metrics.failed(error.kind);
        }
    }

    /// A channel that may name the exchange. An error says that nothing was sent.
    pub(crate) async fn ready(&mut self) -> Result<(Arc<Live>, Channel)> {
        let deadline = Instant::now() + self.publisher.confirm_timeout;
        let live = self.publisher.link.live(deadline).await?;
        if let Some(reason) = live.blocked() {
            self.channel = None;
            return Err(Error::unavailable(format!("publish: the broker takes none now: {reason}")));
        }
        if !self.publisher.standing.knows(live.epoch, &self.exchange) {
            self.look(&live).await?;
            self.publisher.standing.add(live.epoch, &self.exchange);
        }
        self.publisher.usage.published(&self.topic);
        if let Some((epoch, channel)) = &self.channel
            && *epoch == live.epoch
            && channel.status().connected()
        {
            return Ok((live, channel.clone()));
        }
        self.channel = None;
        let channel = live.channel().await?;
        match timeout(CHANNEL_TIMEOUT, channel.confirm_select(ConfirmSelectOptions::default())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(failure::failed("ask for confirms", error)),
            Err(_) => return Err(Error::unavailable("ask for confirms: the broker does not answer")),
        }
        self.channel = Some((live.epoch, channel.clone()));
        Ok((live, channel))
    }

    /// Whether the exchange stands; on a channel of its own, which ends if it does not.
    async fn look(&self, live: &Live) -> Result<()> {
        let channel = live.channel().await?;
        let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
        let looking = channel.exchange_declare(
            short(&self.exchange),
            ExchangeKind::Fanout,
            options,
            FieldTable::default(),
        );
        match timeout(CHANNEL_TIMEOUT, looking).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) if failure::is_not_found(&error) => {
                self.publisher.usage.missed(&self.topic);
                Err(Error::not_found(format!(
                    "publish: the exchange {} does not stand: declare it",
                    self.exchange
                )))
            }
            Ok(Err(error)) => Err(failure::failed("look for an exchange", error)),
            Err(_) => Err(Error::unavailable("look for an exchange: the broker does not answer")),
        }
    }

    async fn publish(&mut self, live: &Live, channel: &Channel, entries: Vec<Outgoing>) -> Vec<Result<()>> {
        let deadline = Instant::now() + self.publisher.confirm_timeout;
        let exchange = short(&self.exchange);
        let frame_max = live.frame_max();
        let unconfirmed = Unconfirmed::new(&self.publisher, entries.len());
        // All are handed over before the first is waited for: one task, woken a few times.
        let ids: Vec<_> = entries.iter().map(Outgoing::id).collect();
        let mut fates: Vec<Fate<'_>> =
            entries.into_iter().map(|entry| hand_over(channel, &exchange, entry, frame_max)).collect();
        let whole = timeout_at(deadline, settle(&mut fates)).await.is_ok();
        drop(unconfirmed);
        let lost = fates.iter().find_map(|fate| match fate {
            Fate::Lost(error) => Some(error),
            _ => None,
        });
        let lost_by_its_exchange = lost.is_some_and(failure::is_not_found);
        if !whole || lost.is_some() || !channel.status().connected() {
            // Its channel is not fit for another window: a confirm may still come. The exchange may be missing: it is looked
            // for before the next.
            self.channel = None;
            self.publisher.standing.forget(&self.exchange);
            let why = lost.map_or_else(|| "no confirm in time".to_owned(), ToString::to_string);
            tracing::warn!(exchange = self.exchange, why, "publishes are unconfirmed");
        }
        let outcomes = judge(fates, &ids, whole, &self.exchange);
        let is_unbound = |outcome: &Result<()>| {
            outcome.as_ref().is_err_and(|error| error.kind == ErrorKind::Misconfigured)
        };
        if lost_by_its_exchange || outcomes.iter().any(is_unbound) {
            self.publisher.usage.missed(&self.topic);
        }
        outcomes
    }
}

/// Gives a publish to the library. Polled once, its frames are in the library's queue, behind those of its predecessors.
fn hand_over<'a>(
    channel: &'a Channel,
    exchange: &ShortString,
    entry: Outgoing,
    frame_max: usize,
) -> Fate<'a> {
    if let Err(error) = entry.check(frame_max) {
        return Fate::Refused(error);
    }
    let Outgoing { body, properties, .. } = entry;
    let exchange = exchange.clone();
    let mut sending: Sending<'a> = Box::pin(async move {
        channel.basic_publish(exchange, ShortString::default(), PUBLISH, &body, properties).await
    });
    let mut context = Context::from_waker(Waker::noop());
    match sending.as_mut().poll(&mut context) {
        Poll::Pending => Fate::Sending(sending),
        Poll::Ready(Ok(confirm)) => Fate::Sent(confirm),
        // Refused by the library at once: nothing left the process.
        Poll::Ready(Err(error)) => Fate::NotSent(error),
    }
}

/// Waits for the confirms of all. Dropped, it leaves what is known so far.
async fn settle(fates: &mut [Fate<'_>]) {
    for fate in fates.iter_mut() {
        if let Fate::Sending(sending) = fate {
            *fate = sending.await.map_or_else(Fate::Lost, Fate::Sent);
        }
    }
    for fate in fates {
        if let Fate::Sent(confirm) = fate {
            *fate = confirm.await.map_or_else(Fate::Lost, confirmed);
        }
    }
}

fn confirmed(confirmation: Confirmation) -> Fate<'static> {
    let taken = confirmation.is_ack();
    let returned = confirmation.take_message().map(|message| message.properties.message_id().clone());
    Fate::Confirmed(taken, returned)
}

/// What each comes to. `whole`: nothing of it is still under way.
fn judge(fates: Vec<Fate<'_>>, ids: &[Option<ShortString>], whole: bool, exchange: &str) -> Vec<Result<()>> {
    let mut returned = Returned::default();
    // Why the first that was lost was.
    let mut why: Option<lapin::Error> = None;
    let fates: Vec<_> = fates
        .into_iter()
        .map(|fate| match fate {
            Fate::Confirmed(taken, message) => {
                if let Some(id) = message {
                    returned.add(id);
                }
                Ok(taken)
            }
            Fate::NotSent(error) => {
                let context = "publish: the connection to the broker is lost, nothing was sent";
                Err(Error::unavailable(context).with_source(error))
            }
            Fate::Refused(error) => Err(error),
            Fate::Sending(_) | Fate::Sent(_) => {
                Err(Error::unknown("publish: the broker did not confirm in time"))
            }
            Fate::Lost(error) => {
                let context = "publish: the connection to the broker was lost before its confirm";
                why.get_or_insert_with(|| error.clone());
                Err(Error::unknown(context).with_source(error))
            }
        })
        .collect();
    // A returned message may hang on any confirm of the window, also on one that is missing.
    let is_missing = |fate: &Result<bool>| matches!(fate, Err(error) if error.kind == ErrorKind::Unknown);
    let certain = whole && !fates.iter().any(is_missing);
    // Those without an id cannot be told apart: all of them came back, or it is not known which.
    let nameless = fates.iter().zip(ids).filter(|(fate, id)| fate.is_ok() && id.is_none()).count();
    let outcome = |(fate, id): (Result<bool>, &Option<ShortString>)| {
        let taken = fate?;
        match id {
            Some(id) if returned.ids.contains(id) => Err(unbound(exchange)),
            None if returned.nameless > 0 && returned.nameless == nameless => Err(unbound(exchange)),
            None if returned.nameless > 0 => Err(Error::unknown(
                "publish: the broker returned it or a neighbour, and it has no header id by which to tell",
            )),
            _ if !taken => Err(Error::unknown(
                "publish: a queue refused it (one of another party that is full must not use reject-publish)",
            )),
            _ if certain => Ok(()),
            _ => {
                let error = Error::unknown(
                    "publish: the connection to the broker was lost before a neighbour's confirm",
                );
                Err(match &why {
                    Some(why) => error.with_source(why.clone()),
                    None => error,
                })
            }
        }
    };
    fates.into_iter().zip(ids).map(outcome).collect()
}

/// What the broker has given back.
#[derive(Default)]
struct Returned {
    ids: BTreeSet<ShortString>,
    nameless: usize,
}

impl Returned {
    fn add(&mut self, id: Option<ShortString>) {
        match id {
            Some(id) => drop(self.ids.insert(id)),
            None => self.nameless += 1,
        }
    }
}

fn unbound(exchange: &str) -> Error {
    Error::misconfigured(format!(
        "publish: no queue is bound to the exchange {exchange}: declare the topology again"
    ))
}

/// Counts what is under way, also when its task is dropped.
struct Unconfirmed<'a> {
    publisher: &'a Publisher,
    count: i64,
}

impl<'a> Unconfirmed<'a> {
    fn new(publisher: &'a Publisher, count: usize) -> Self {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        publisher.metrics.unconfirmed(count);
        Self { publisher, count }
    }
}

impl Drop for Unconfirmed<'_> {
    fn drop(&mut self) {
        self.publisher.metrics.unconfirmed(-self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> Vec<Option<ShortString>> {
        ids.iter().map(|id| (!id.is_empty()).then(|| ShortString::from(*id))).collect()
    }

    fn confirmed(returned: Option<&str>) -> Fate<'static> {
        Fate::Confirmed(true, returned.map(|id| ids(&[id]).remove(0)))
    }

    fn kinds(answers: &[Result<()>]) -> Vec<Option<ErrorKind>> {
        answers.iter().map(|answer| answer.as_ref().err().map(|error| error.kind)).collect()
    }

    const UNBOUND: Option<ErrorKind> = Some(ErrorKind::Misconfigured);
    const UNKNOWN: Option<ErrorKind> = Some(ErrorKind::Unknown);

    #[test]
    fn what_came_back_is_told_by_its_id_and_not_by_the_confirm_that_it_hangs_on() {
        let fates = vec![confirmed(Some("b")), confirmed(None), confirmed(None)];
        let answers = judge(fates, &ids(&["a", "b", "c"]), true, "x");
        assert_eq!(kinds(&answers), [None, UNBOUND, None]);
        // The same id twice: both are said to have come back.
        let fates = vec![confirmed(Some("a")), confirmed(None)];
        assert_eq!(kinds(&judge(fates, &ids(&["a", "a"]), true, "x")), [UNBOUND, UNBOUND]);
    }

    #[test]
    fn those_without_an_id_came_back_together_or_are_unknown() {
        let fates = vec![confirmed(Some("")), confirmed(Some(""))];
        assert_eq!(kinds(&judge(fates, &ids(&["", ""]), true, "x")), [UNBOUND, UNBOUND]);
        let fates = vec![confirmed(Some("")), confirmed(None), confirmed(None)];
        assert_eq!(kinds(&judge(fates, &ids(&["", "", "c"]), true, "x")), [UNKNOWN, UNKNOWN, None]);
    }

    #[test]
    fn nothing_is_certain_of_a_window_that_is_not_complete() {
        let lost = || Fate::Lost(lapin::ErrorKind::MissingHeartbeatError.into());
        let not_sent = Fate::NotSent(lapin::ErrorKind::InvalidChannel(7).into());
        let fates = vec![confirmed(None), lost(), not_sent, Fate::Confirmed(false, None)];
        let answers = judge(fates, &ids(&["a", "b", "c", "d"]), true, "x");
        let chain = |at: usize| answers[at].as_ref().unwrap_err().chain();
        for at in [0, 1] {
            assert!(
                chain(at)
                    .ends_with(&format!(": {}", lapin::Error::from(lapin::ErrorKind::MissingHeartbeatError)))
            );
        }
        assert!(chain(2).ends_with("invalid channel: 7"), "{}", chain(2));
        let copies = failure::each(answers[1].as_ref().unwrap_err(), 2);
        assert!(copies.iter().all(|copy| copy.as_ref().unwrap_err().chain() == chain(1)));
        assert_eq!(kinds(&answers), [UNKNOWN, UNKNOWN, Some(ErrorKind::Unavailable), UNKNOWN]);
        assert_eq!(kinds(&judge(vec![confirmed(None)], &ids(&["a"]), false, "x")), [UNKNOWN]);
        assert_eq!(kinds(&judge(vec![confirmed(None)], &ids(&["a"]), true, "x")), [None]);
    }
}
