//! A mail server whose behaviour toward each recipient is scripted.

#![expect(
    clippy::disallowed_methods,
    reason = "a test double: the order in which waiters wake is not looked at"
)]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use bytes::Bytes;
use tidings_domain::ports::{
    Mail, MailEnvelope, MailError, MailErrorClass, MailPhase, MailReply, MailTransaction,
};
use tokio::sync::watch;

/// What is done with one mail.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Take,
    /// Fails before the transaction has begun.
    RefuseBegin(MailError),
    /// Fails after DATA.
    RefuseData(MailError),
    /// Never answers `begin`.
    HangBegin,
    /// Takes the mail and never answers.
    HangData,
    /// Answers `data` when the post office is told to go on.
    HoldData,
}

pub(crate) fn error(phase: MailPhase, class: MailErrorClass, code: u16, text: &str) -> MailError {
    MailError { phase, class, code, text: text.to_owned() }
}

pub(crate) fn away() -> MailError {
    error(MailPhase::Connect, MailErrorClass::Unavailable, 0, "connection refused")
}

#[derive(Default)]
struct State {
    scripts: BTreeMap<String, (Vec<Act>, Act)>,
    down: Option<MailError>,
    taken: Vec<(String, Bytes)>,
    begun: BTreeMap<String, u32>,
    pings: u32,
    under_way: u32,
    most_under_way: u32,
}

/// Clones are the same.
#[derive(Clone)]
pub(crate) struct PostOffice {
    state: Arc<Mutex<State>>,
    goes_on: Arc<watch::Sender<bool>>,
    begins: Arc<Mutex<Option<BeginHook>>>,
}

type BeginHook = Box<dyn Fn(&str) -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

impl PostOffice {
    pub(crate) fn new() -> Self {
        Self { state: Arc::default(), goes_on: Arc::new(watch::Sender::new(false)), begins: Arc::default() }
    }

    /// For `to`: these, one mail each, then `rest` for all after them.
    pub(crate) fn script(&self, to: &str, first: impl IntoIterator<Item = Act>, rest: Act) {
        let mut first: Vec<_> = first.into_iter().collect();
        first.reverse();
        self.state.lock().unwrap().scripts.insert(to.to_owned(), (first, rest));
    }

    /// Every `begin` and `ping` fails with this, or not any more.
    pub(crate) fn set_down(&self, down: Option<MailError>) {
        self.state.lock().unwrap().down = down;
    }

    /// Called when a transaction was begun.
    pub(crate) fn when_begun(&self, hook: BeginHook) {
        *self.begins.lock().unwrap() = Some(hook);
    }

    pub(crate) fn go_on(&self) {
        self.goes_on.send_replace(true);
    }

    /// Recipients of mails taken, in order.
    pub(crate) fn recipients(&self) -> Vec<String> {
        self.state.lock().unwrap().taken.iter().map(|(to, _)| to.clone()).collect()
    }

    pub(crate) fn taken(&self) -> Vec<(String, String)> {
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        self.state.lock().unwrap().taken.iter().map(|(to, mail)| (to.clone(), text(mail))).collect()
    }

    /// How often a transaction to `to` was asked for.
    pub(crate) fn begun(&self, to: &str) -> u32 {
        self.state.lock().unwrap().begun.get(to).copied().unwrap_or(0)
    }

    pub(crate) fn pings(&self) -> u32 {
        self.state.lock().unwrap().pings
    }

    pub(crate) fn most_under_way(&self) -> u32 {
        self.state.lock().unwrap().most_under_way
    }
}

struct Transaction {
    office: PostOffice,
    to: String,
    act: Act,
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.office.state.lock().unwrap().under_way -= 1;
    }
}

#[async_trait]
impl Mail for PostOffice {
    async fn begin(&self, envelope: &MailEnvelope) -> Result<Box<dyn MailTransaction>, MailError> {
        tokio::task::yield_now().await;
        let to = envelope.to.as_str().to_owned();
        let act = {
            let mut state = self.state.lock().unwrap();
            *state.begun.entry(to.clone()).or_default() += 1;
            if let Some(down) = &state.down {
                return Err(down.clone());
            }
            state
                .scripts
                .get_mut(&to)
                .map_or(Act::Take, |(first, rest)| first.pop().unwrap_or_else(|| rest.clone()))
        };
        match act {
            Act::RefuseBegin(error) => return Err(error),
            Act::HangBegin => std::future::pending().await,
            _ => {}
        }
        {
            let mut state = self.state.lock().unwrap();
            state.under_way += 1;
            state.most_under_way = state.most_under_way.max(state.under_way);
        }
        let transaction = Transaction { office: self.clone(), to: to.clone(), act };
        let hook = self.begins.lock().unwrap().as_ref().map(|hook| hook(&to));
        if let Some(hook) = hook {
            hook.await;
        }
        Ok(Box::new(transaction))
    }

    async fn ping(&self) -> Result<(), MailError> {
        tokio::task::yield_now().await;
        let mut state = self.state.lock().unwrap();
        state.pings += 1;
        state.down.clone().map_or(Ok(()), Err)
    }
}

#[async_trait]
impl MailTransaction for Transaction {
    async fn data(self: Box<Self>, message: Bytes) -> Result<MailReply, MailError> {
        tokio::task::yield_now().await;
        if let Act::RefuseData(error) = &self.act {
            return Err(error.clone());
        }
        self.office.state.lock().unwrap().taken.push((self.to.clone(), message));
        match self.act {
            Act::HangData => std::future::pending().await,
            Act::HoldData => {
                let mut goes_on = self.office.goes_on.subscribe();
                let _ = goes_on.wait_for(|goes_on| *goes_on).await;
            }
            _ => {}
        }
        Ok(MailReply { code: 250, text: format!("2.0.0 taken for {}", self.to) })
    }
}
