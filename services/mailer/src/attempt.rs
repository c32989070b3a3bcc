//! One attempt of one delivery: begun, recorded as `sending`, handed over, settled.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use opentelemetry::{KeyValue, trace::SpanKind};
use tidings_domain::{
    ErrorKind, Result,
    address::{EmailAddress, cut_address},
    dead_letter::reason,
    delivery::{Answer, Delivery, DeliveryKey, DeliveryKind, LeaseToken, Outcome, Sending},
    ports::{Clock, Entropy, Mail, MailEnvelope, MailError, MailErrorClass, MailPhase, MailReply},
    subscription::{Subscription, is_wanted},
    trace_context::TraceContext,
};
use tidings_runtime::telemetry::{Span, Telemetry, within};
use tokio::time::Instant;

use crate::{
    events,
    gather::Gather,
    leases::{Held, Leases},
    letters::failed,
    message::Mails,
    metrics::Metrics,
    outage::Outage,
    outbox::Work,
    settings::{Ambiguous, Settings},
};

/// How often a delivery may end a session that is fine for others before that counts as a failed attempt.
const STRIKES: u32 = 3;

/// The most deliveries whose strikes are remembered.
const MOST_STRIKERS: usize = 10_000;

/// What every attempt needs.
pub(crate) struct Attempts {
    pub(crate) mail: Arc<dyn Mail>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) entropy: Arc<dyn Entropy>,
    pub(crate) mails: Arc<Mails>,
    pub(crate) outage: Arc<Outage>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) settings: Settings,
    pub(crate) telemetry: Telemetry,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) sending: Gather<(DeliveryKey, LeaseToken), Sending>,
    pub(crate) settling: Gather<(DeliveryKey, LeaseToken, Outcome), Result<()>>,
    pub(crate) strikes: Mutex<BTreeMap<DeliveryKey, u32>>,
}

impl Attempts {
    /// Makes the attempt and settles it.
    pub(crate) async fn deliver(&self, work: Work) {
        let span = self.span(&work.claimed.delivery, work.claimed.unknown);
        let trace = span.trace().clone();
        within(&trace, self.deliver_in(span, work)).await;
    }

    async fn deliver_in(&self, mut span: Span, work: Work) {
        let began = Instant::now();
        let (key, token) = (work.claimed.delivery.key, work.claimed.token);
        let held = self.leases.hold(key, token, self.clock.now().plus(self.settings.lease()));
        if work.claimed.unknown {
            self.metrics.found_unknown();
            events::found_unknown(&mut span, &work.claimed.delivery);
            tracing::warn!(delivery = %key, "the outcome of an earlier attempt is unknown");
        }
        let Some(outcome) = self.attempt(&work, &held, &mut span).await else { return };
        events::ended(&mut span, &work.claimed.delivery, &outcome);
        drop(span);
        if let Outcome::Failed { answer, dead_letter, .. } = &outcome {
            // What the server said may hold an address: the dead letter has it, cut.
            let (reason, attempts) = (&*dead_letter.reason, dead_letter.attempts);
            let (phase, code) = (answer.as_ref().map(|it| &*it.phase), answer.as_ref().map(|it| it.code));
            tracing::warn!(delivery = %key, reason, phase, code, attempts, "a mail is given up: a dead letter");
        }
        if let Outcome::Sent { .. } = outcome {
            let accepted_at = work.item.as_ref().map(|item| item.accepted_at);
            self.metrics.sent(&work.claimed.delivery, accepted_at, self.clock.now());
        }
        self.settle(key, token, outcome, began).await;
        drop(work.place);
    }

    /// Gives a delivery back as it was, due at once; one that was found `sending` as [`crate::claimer::release`] does.
    pub(crate) async fn release(&self, work: Work) {
        if work.claimed.unknown {
            return;
        }
        let due_at = work.claimed.delivery.due_at;
        let (key, token) = (work.claimed.delivery.key, work.claimed.token);
        self.settle(key, token, Outcome::Released { due_at }, Instant::now()).await;
    }

    /// The attempt's outcome; none when the lease is another's and nothing is ours to settle.
    async fn attempt(&self, work: &Work, held: &Held<'_>, span: &mut Span) -> Option<Outcome> {
        let delivery = &work.claimed.delivery;
        if let Some(outcome) = self.given_up_before(work) {
            return Some(outcome);
        }
        let subscription = work.subscription.as_ref();
        let Some(subscription) =
            subscription.filter(|s| is_wanted(Some(s), delivery.kind, delivery.key.round))
        else {
            return Some(Outcome::Suppressed);
        };
        if delivery.kind == DeliveryKind::Item && work.item.is_none() {
            let detail = "the item that the mail is about is not there".to_owned();
            return Some(self.failed(delivery, reason::ITEM_MISSING, detail, None, false));
        }
        let envelope = MailEnvelope { from: self.settings.mail_from.clone(), to: subscription.email.clone() };
        let begun = tokio::select! {
            biased;
            () = self.outage.nothing_begins() => return Some(self.released(delivery)),
            begun = self.mail.begin(&envelope) => begun,
        };
        let transaction = match begun {
            Ok(transaction) => transaction,
            Err(error) => return Some(self.after_error(delivery, subscription, error, span).await),
        };
        self.server_takes_mails();
        // Written only now: many wait for a session, few have one.
        let message = match self.write(work, subscription) {
            Ok(message) => message,
            Err(error) => return Some(self.failed(delivery, reason::REJECTED, error.chain(), None, false)),
        };
        let until = self.clock.now().plus(self.settings.lease());
        match self.sending.call((delivery.key, work.claimed.token)).await {
            Ok(Sending::Recorded) => held.extended(until),
            Ok(Sending::LeaseLost) => {
                tracing::warn!(delivery = %delivery.key, "the lease was lost before the mail was begun");
                return None;
            }
            Ok(Sending::NotSubscribed) => return Some(Outcome::Suppressed),
            Err(error) => {
                // `sending` may stand in the row; the transaction is dropped, so that nothing was sent.
                tracing::warn!(delivery = %delivery.key, error = error.chain(), "sending was not recorded");
                return Some(self.released_later(1));
            }
        }
        match transaction.data(message).await {
            Ok(reply) => {
                self.forget_strikes(&delivery.key);
                span.set(KeyValue::new("smtp.response.code", i64::from(reply.code)));
                Some(Outcome::Sent { answer: self.reply(&reply, &subscription.email) })
            }
            Err(error) => Some(self.after_error(delivery, subscription, error, span).await),
        }
    }

    fn write(&self, work: &Work, subscription: &Subscription) -> Result<Bytes> {
        let delivery = &work.claimed.delivery;
        match &work.item {
            Some(item) => self.mails.item(item, delivery, subscription),
            None => self.mails.confirmation(delivery, subscription, self.clock.now()),
        }
    }

    fn server_takes_mails(&self) {
        if self.outage.passed() {
            tracing::info!("the mail server takes mails again");
        }
    }

    /// What needs no attempt to be given up.
    fn given_up_before(&self, work: &Work) -> Option<Outcome> {
        let (delivery, unknown) = (&work.claimed.delivery, work.claimed.unknown);
        if unknown && self.settings.ambiguous == Ambiguous::Hold {
            let detail = "the sender was lost while the mail was under way: whether it was taken is unknown"
                .to_owned();
            return Some(self.failed(delivery, reason::UNKNOWN_HELD, detail, None, true));
        }
        if delivery.attempts >= self.settings.attempts {
            let detail = format!("{} attempts were made", delivery.attempts);
            return Some(self.failed(delivery, reason::ATTEMPTS_EXHAUSTED, detail, None, unknown));
        }
        None
    }

    async fn after_error(
        &self,
        delivery: &Delivery,
        subscription: &Subscription,
        mut error: MailError,
        span: &mut Span,
    ) -> Outcome {
        let key = delivery.key;
        error.text = cut_address(&error.text, &subscription.email);
        // What a server says is its own: a span has the code.
        span.fail(error_type(error.class), format!("{} {}", error.phase.as_str(), error.code));
        let answer = error.answer(self.clock.now());
        let said = format!("{}, {}: {} {}", server_did(&error), error.phase.as_str(), error.code, error.text);
        if error.code != 0 && !matches!(error.class, MailErrorClass::Login | MailErrorClass::Unavailable) {
            // It refuses this mail, and works.
            self.server_takes_mails();
        }
        match error.class {
            MailErrorClass::Permanent | MailErrorClass::Recipient => {
                self.forget_strikes(&key);
                self.failed(delivery, reason::REFUSED, said, Some(answer), false)
            }
            MailErrorClass::Transient => self.retry(delivery, answer, said),
            MailErrorClass::Unknown => {
                tracing::warn!(delivery = %key, error = %error, "the outcome of a mail is unknown");
                self.unknown(delivery, answer, said)
            }
            MailErrorClass::Login => {
                self.outage.begin(&waits_for(&error));
                self.released(delivery)
            }
            MailErrorClass::Unavailable => self.unavailable(delivery, error, answer, said).await,
        }
    }

    /// The server is away; or it takes mails, and only this one's transaction ends in its going away.
    async fn unavailable(
        &self,
        delivery: &Delivery,
        error: MailError,
        answer: Answer,
        said: String,
    ) -> Outcome {
        let in_transaction = matches!(error.phase, MailPhase::MailFrom | MailPhase::RcptTo | MailPhase::Data);
        if !in_transaction {
            self.outage.begin(&waits_for(&error));
            return self.released(delivery);
        }
        let ping = tokio::select! {
            biased;
            () = self.outage.nothing_begins() => return self.released(delivery),
            ping = self.mail.ping() => ping,
        };
        if let Err(error) = ping {
            self.outage.begin(&waits_for(&error));
            return self.released(delivery);
        }
        let strikes = self.strike(delivery.key);
        tracing::info!(delivery = %delivery.key, error = %error, strikes, "a transaction was lost, the server answers");
        if strikes >= STRIKES {
            self.forget_strikes(&delivery.key);
            return self.retry(delivery, answer, said);
        }
        self.released_later(strikes)
    }

    fn retry(&self, delivery: &Delivery, answer: Answer, said: String) -> Outcome {
        let attempts = delivery.attempts + 1;
        if attempts >= self.settings.attempts {
            let detail = format!("{attempts} attempts were made; at the last {said}");
            return self.failed(delivery, reason::ATTEMPTS_EXHAUSTED, detail, Some(answer), false);
        }
        Outcome::Retry { answer, due_at: self.due_after(attempts) }
    }

    fn unknown(&self, delivery: &Delivery, answer: Answer, said: String) -> Outcome {
        let attempts = delivery.attempts + 1;
        if self.settings.ambiguous == Ambiguous::Hold {
            let detail = format!("whether the mail was taken is unknown: {said}");
            return self.failed(delivery, reason::UNKNOWN_HELD, detail, Some(answer), true);
        }
        if attempts >= self.settings.attempts {
            let detail = format!("{attempts} attempts were made; the last one's outcome is unknown: {said}");
            return self.failed(delivery, reason::ATTEMPTS_EXHAUSTED, detail, Some(answer), true);
        }
        Outcome::Unknown { answer, due_at: self.due_after(attempts) }
    }

    fn due_after(&self, attempts: u32) -> tidings_domain::time::Timestamp {
        self.clock.now().plus(self.settings.retry().wait(attempts, &*self.entropy))
    }

    fn released(&self, delivery: &Delivery) -> Outcome {
        Outcome::Released { due_at: delivery.due_at }
    }

    fn released_later(&self, strikes: u32) -> Outcome {
        Outcome::Released {
            due_at: self.clock.now().plus(self.settings.outage().wait(strikes, &*self.entropy)),
        }
    }

    fn failed(
        &self,
        delivery: &Delivery,
        reason: &str,
        detail: String,
        answer: Option<Answer>,
        unknown: bool,
    ) -> Outcome {
        failed(delivery, reason, detail, answer, unknown, &*self.clock, &*self.entropy)
    }

    fn reply(&self, reply: &MailReply, to: &EmailAddress) -> Answer {
        let mut answer = reply.answer(self.clock.now());
        answer.text = cut_address(&answer.text, to);
        answer
    }

    /// A first attempt is a child of the delivery's trace; a later one is a trace of its own that links.
    fn span(&self, delivery: &Delivery, unknown: bool) -> Span {
        if !self.telemetry.is_recording() {
            return Span::none(delivery.trace.clone());
        }
        let attributes = vec![
            KeyValue::new("tidings.delivery.kind", delivery.kind.as_str()),
            KeyValue::new("tidings.delivery.attempt", i64::from(delivery.attempts) + 1),
            KeyValue::new("messaging.message.id", delivery.key.about.to_string()),
        ];
        let first = delivery.attempts == 0 && !unknown;
        let (parent, links) = if first {
            (delivery.trace.clone(), vec![])
        } else {
            (TraceContext::default(), vec![delivery.trace.clone()])
        };
        self.telemetry.span("send mail", SpanKind::Client, &parent, &links, attributes)
    }

    fn strike(&self, key: DeliveryKey) -> u32 {
        let mut strikes = self.strikes.lock().unwrap_or_else(PoisonError::into_inner);
        if strikes.len() >= MOST_STRIKERS {
            strikes.pop_first();
        }
        let count = strikes.entry(key).or_insert(0);
        *count += 1;
        *count
    }

    fn forget_strikes(&self, key: &DeliveryKey) {
        self.strikes.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    /// Settles until it is settled or another's. What is lost on the way (we end, the store stays away) leaves a row
    /// whose lease runs out: pending rows are sent then, `sending` ones are unknown.
    async fn settle(&self, key: DeliveryKey, token: LeaseToken, outcome: Outcome, began: Instant) {
        let mut failures = 0;
        loop {
            let error = match self.settling.call((key, token, outcome.clone())).await {
                Ok(Ok(())) => {
                    self.metrics.ended(&outcome, began.elapsed());
                    return;
                }
                Ok(Err(error)) | Err(error) => error,
            };
            match error.kind {
                ErrorKind::LeaseLost => {
                    tracing::warn!(delivery = %key, "the lease was lost before the outcome was settled");
                    return;
                }
                ErrorKind::Rejected | ErrorKind::NotFound | ErrorKind::Conflict => {
                    tracing::error!(delivery = %key, error = error.chain(), "an outcome cannot be settled");
                    return;
                }
                _ => {}
            }
            failures += 1;
            if failures == 1 {
                tracing::warn!(delivery = %key, error = error.chain(), "an outcome was not settled, tried again");
            }
            tokio::time::sleep(self.settings.outage().wait(failures, &*self.entropy)).await;
        }
    }
}

/// What readiness says while the server is away. Replies to MAIL and RCPT may hold addresses and are left out.
pub(crate) fn waits_for(error: &MailError) -> String {
    let text = match error.phase {
        MailPhase::MailFrom | MailPhase::RcptTo | MailPhase::Data => "",
        _ => error.text.as_str(),
    };
    let code = if error.code == 0 { String::new() } else { format!(" {}", error.code) };
    let refused = if error.class == MailErrorClass::Login {
        " (it refuses us: see SMTP_URL and mail_from)"
    } else {
        ""
    };
    format!("the mail server, {}:{code} {text}{refused}", error.phase.as_str())
}

fn server_did(error: &MailError) -> &'static str {
    if error.code == 0 { "the connection to the mail server failed" } else { "the mail server answered" }
}

fn error_type(class: MailErrorClass) -> &'static str {
    match class {
        MailErrorClass::Transient => "transient",
        MailErrorClass::Permanent => "permanent",
        MailErrorClass::Recipient => "recipient",
        MailErrorClass::Login => "login",
        MailErrorClass::Unavailable => "unavailable",
        MailErrorClass::Unknown => "unknown",
    }
}
