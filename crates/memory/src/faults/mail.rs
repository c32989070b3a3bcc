//! `Mail` with the faults that mail servers have.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tidings_domain::ports::{
    Mail, MailEnvelope, MailError, MailErrorClass, MailPhase, MailReply, MailTransaction,
};

use crate::{Event, Recorder, SeededEntropy};

/// What a mail server does with one mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MailFault {
    /// It cannot be connected to.
    Unavailable,
    /// It refuses our login.
    Login,
    /// It refuses the recipient for now.
    Transient,
    /// It refuses the recipient for good.
    Recipient,
    /// It refuses the mail for good after its final dot.
    Permanent,
    /// It refuses the mail for now after its final dot.
    TransientAfter,
    /// The connection is lost before it has taken the mail.
    LostBefore,
    /// The connection is lost after it has taken the mail.
    LostAfter,
    /// It answers late.
    Slow,
}

impl MailFault {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Unavailable,
        Self::Login,
        Self::Transient,
        Self::Recipient,
        Self::Permanent,
        Self::TransientAfter,
        Self::LostBefore,
        Self::LostAfter,
        Self::Slow,
    ];

    fn error(self) -> Option<MailError> {
        let (phase, class, code, text) = match self {
            Self::Unavailable => (MailPhase::Connect, MailErrorClass::Unavailable, 0, "connection refused"),
            Self::Login => (MailPhase::Auth, MailErrorClass::Login, 535, "5.7.8 credentials invalid"),
            Self::Transient => (MailPhase::RcptTo, MailErrorClass::Transient, 451, "4.3.0 try again later"),
            Self::Recipient => (MailPhase::RcptTo, MailErrorClass::Recipient, 550, "5.1.1 no such user"),
            Self::Permanent => (MailPhase::Message, MailErrorClass::Permanent, 554, "5.7.1 refused"),
            Self::TransientAfter => (MailPhase::Message, MailErrorClass::Transient, 452, "4.3.1 no space"),
            Self::LostBefore | Self::LostAfter => {
                (MailPhase::Message, MailErrorClass::Unknown, 0, "the connection ended before the reply")
            }
            Self::Slow => return None,
        };
        Some(MailError { phase, class, code, text: text.to_owned() })
    }

    fn is_before_data(self) -> bool {
        matches!(self, Self::Unavailable | Self::Login | Self::Transient | Self::Recipient)
    }
}

/// Which share of mails each fault hits, and how long a slow one takes at most.
#[derive(Clone, Debug, Default)]
pub struct MailRates {
    /// Shares of all mails; those that are absent are 0.
    pub shares: Vec<(MailFault, f64)>,
    /// The longest wait of a slow one.
    pub longest: Duration,
}

/// A seeded script of mail faults. Clones are the same script.
#[derive(Clone)]
pub struct MailFaults {
    inner: Arc<Inner>,
}

struct Inner {
    entropy: SeededEntropy,
    rates: Mutex<MailRates>,
    recorder: Recorder,
}

impl MailFaults {
    /// A script of `seed`; what it does is taken down by `recorder`.
    pub fn new(seed: u64, rates: MailRates, recorder: Recorder) -> Self {
        Self {
            inner: Arc::new(Inner { entropy: SeededEntropy::new(seed), rates: Mutex::new(rates), recorder }),
        }
    }

    /// From now on these; `MailRates::default()` ends all faults.
    pub fn set(&self, rates: MailRates) {
        *self.rates() = rates;
    }

    /// From now on every mail meets `fault`.
    pub fn always(&self, fault: MailFault) {
        self.set(MailRates { shares: vec![(fault, 1.0)], longest: Duration::ZERO });
    }

    fn rates(&self) -> MutexGuard<'_, MailRates> {
        self.inner.rates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn decide(&self) -> Option<MailFault> {
        let shares = self.rates().shares.clone();
        let (fault, _) = shares.into_iter().find(|(_, share)| self.inner.entropy.happens(*share))?;
        self.inner.recorder.record(Event::World(format!("mail fault {fault:?}")));
        Some(fault)
    }

    async fn wait(&self) {
        let longest_ms = u64::try_from(self.rates().longest.as_millis()).unwrap_or(u64::MAX);
        let wait_ms = self.inner.entropy.below(longest_ms.saturating_add(1));
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

/// A mail port with faults before it.
pub struct FaultyMail {
    inner: Arc<dyn Mail>,
    faults: MailFaults,
}

impl FaultyMail {
    /// `port` with the faults of `faults`.
    pub fn new(port: Arc<dyn Mail>, faults: &MailFaults) -> Self {
        Self { inner: port, faults: faults.clone() }
    }
}

#[async_trait]
impl Mail for FaultyMail {
    async fn begin(&self, envelope: &MailEnvelope) -> Result<Box<dyn MailTransaction>, MailError> {
        let fault = self.faults.decide();
        if fault == Some(MailFault::Slow) {
            self.faults.wait().await;
        }
        let inner = self.inner.begin(envelope).await?;
        match fault {
            Some(fault) if fault.is_before_data() => fault.error().map_or(Ok(inner), Err),
            fault => Ok(Box::new(FaultyTransaction { inner, faults: self.faults.clone(), fault })),
        }
    }

    async fn ping(&self) -> Result<(), MailError> {
        if let Some(fault) = self.faults.decide()
            && matches!(fault, MailFault::Unavailable | MailFault::Login)
            && let Some(error) = fault.error()
        {
            return Err(error);
        }
        self.inner.ping().await
    }
}

struct FaultyTransaction {
    inner: Box<dyn MailTransaction>,
    faults: MailFaults,
    fault: Option<MailFault>,
}

#[async_trait]
impl MailTransaction for FaultyTransaction {
    async fn data(self: Box<Self>, message: Bytes) -> Result<MailReply, MailError> {
        let Some(fault) = self.fault else { return self.inner.data(message).await };
        match (fault, fault.error()) {
            (MailFault::LostAfter, Some(error)) => {
                self.inner.data(message).await?;
                Err(error)
            }
            (_, Some(error)) => Err(error),
            (_, None) => {
                let reply = self.inner.data(message).await;
                self.faults.wait().await;
                reply
            }
        }
    }
}
