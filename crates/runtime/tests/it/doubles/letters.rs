use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource},
    delivery::LeaseToken,
    id::DeadLetterId,
    page::{Page, PageRequest},
    ports::{ClaimedDeadLetter, DeadLetterDepth, DeadLetters},
    time::Timestamp,
};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use super::TestBus;

/// Dead letters in memory. With a bus, a put is noted in its log as `put x`, so that orders can be compared.
#[derive(Clone, Default)]
pub(crate) struct TestLetters {
    rows: Arc<Mutex<BTreeMap<DeadLetterId, DeadLetter>>>,
    leases: Arc<Mutex<BTreeMap<DeadLetterId, (LeaseToken, Instant)>>>,
    pub(crate) put_errors: Arc<Mutex<VecDeque<Error>>>,
    pub(crate) settle_errors: Arc<Mutex<VecDeque<Error>>>,
    changed: Arc<Notify>,
    bus: Option<TestBus>,
}

impl TestLetters {
    /// Whose puts are noted in the log of `bus`.
    pub(crate) fn noting_in(bus: &TestBus) -> Self {
        Self { bus: Some(bus.clone()), ..Self::default() }
    }

    pub(crate) fn all(&self) -> Vec<DeadLetter> {
        self.rows.lock().unwrap().values().cloned().collect()
    }

    /// Writes a row as if it had been there and was marked.
    pub(crate) fn mark_new(&self, letter: DeadLetter) {
        let marked = DeadLetter { marked_at: Some(Timestamp::from_millis(5)), ..letter };
        self.rows.lock().unwrap().insert(marked.id, marked);
        self.changed.notify_waiters();
    }

    /// Waits until `condition` holds of all rows.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&[DeadLetter]) -> bool) {
        let waiting = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if condition(&self.all()) {
                    return;
                }
                changed.await;
            }
        };
        let end = tokio::time::timeout(Duration::from_secs(7200), waiting).await;
        assert!(end.is_ok(), "never: {what}; rows: {:?}", self.all());
    }
}

/// A letter with this text.
pub(crate) fn letter(number: u128, text: &str) -> DeadLetter {
    DeadLetter {
        id: DeadLetterId(Uuid::from_u128(number)),
        source: DeadLetterSource::Items,
        topic: None,
        message_id: Some(Uuid::from_u128(number)),
        delivery: None,
        reason: "rejected".to_owned(),
        detail: "at first".to_owned(),
        headers: BTreeMap::new(),
        body: text.to_owned().into(),
        attempts: 1,
        created_at: Timestamp::from_millis(1),
        marked_at: None,
    }
}

#[async_trait]
impl DeadLetters for TestLetters {
    async fn put(&self, letters: Vec<DeadLetter>) -> Result<()> {
        tokio::task::yield_now().await;
        if let Some(error) = self.put_errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        for letter in letters {
            if let Some(bus) = &self.bus {
                bus.inner().log.push(format!("put {}", String::from_utf8_lossy(&letter.body)));
            }
            self.rows.lock().unwrap().entry(letter.id).or_insert(letter);
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn list(&self, _: &DeadLetterSelection, _: &PageRequest) -> Result<Page<DeadLetter>> {
        Err(Error::rejected("no loop lists"))
    }

    async fn mark(&self, _: &DeadLetterSelection, _: Timestamp) -> Result<u64> {
        Err(Error::rejected("no loop marks"))
    }

    async fn count(&self, selection: &DeadLetterSelection) -> Result<u64> {
        Ok(self.all().iter().filter(|letter| selection.includes(letter)).count() as u64)
    }

    async fn discard(&self, _: &DeadLetterSelection) -> Result<u64> {
        Err(Error::rejected("no loop discards"))
    }

    async fn claim(
        &self,
        source: DeadLetterSource,
        max: u32,
        token: LeaseToken,
        _: Timestamp,
        lease: Duration,
    ) -> Result<Vec<ClaimedDeadLetter>> {
        let now = Instant::now();
        let mut leases = self.leases.lock().unwrap();
        let free = |id: &DeadLetterId| leases.get(id).is_none_or(|(_, until)| *until <= now);
        let claimed: Vec<_> = self
            .all()
            .into_iter()
            .filter(|letter| letter.source == source && letter.marked_at.is_some() && free(&letter.id))
            .take(max as usize)
            .map(|letter| ClaimedDeadLetter { letter, token })
            .collect();
        leases.extend(claimed.iter().map(|claimed| (claimed.letter.id, (token, now + lease))));
        Ok(claimed)
    }

    async fn settle(&self, settled: Vec<(DeadLetterId, LeaseToken, Option<DeadLetter>)>) -> Result<()> {
        if let Some(error) = self.settle_errors.lock().unwrap().pop_front() {
            return Err(error);
        }
        for (id, token, letter) in settled {
            if self.leases.lock().unwrap().get(&id).is_none_or(|(held, _)| *held != token) {
                continue;
            }
            self.leases.lock().unwrap().remove(&id);
            let mut rows = self.rows.lock().unwrap();
            match letter {
                Some(letter) => rows.insert(id, letter),
                None => rows.remove(&id),
            };
        }
        self.changed.notify_waiters();
        Ok(())
    }

    async fn depths(&self) -> Result<Vec<DeadLetterDepth>> {
        Ok(Vec::new())
    }
}
