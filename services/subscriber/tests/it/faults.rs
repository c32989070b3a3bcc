use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    id::MessageId,
    item::Item,
    page::Page,
    ports::{Expired, Inserted, ItemQuery, Items, NewItem},
    time::Timestamp,
};

/// What the next insert does.
pub(crate) enum Fault {
    /// It is made and its answer lost.
    AnswerLost,
    /// It fails with this and has no effect.
    Fails(Error),
}

/// Items whose inserts fail as a test says; it keeps how many rows each had.
pub(crate) struct FaultyItems {
    items: Arc<dyn Items>,
    pub(crate) faults: Mutex<VecDeque<Fault>>,
    pub(crate) inserts: Mutex<Vec<usize>>,
    /// Rows with this text are refused.
    pub(crate) refused: Mutex<Option<Error>>,
}

pub(crate) const REFUSED: &str = "refused";

impl FaultyItems {
    pub(crate) fn new(items: Arc<dyn Items>) -> Self {
        Self { items, faults: Mutex::default(), inserts: Mutex::default(), refused: Mutex::default() }
    }

    pub(crate) fn will(&self, fault: Fault) {
        self.faults.lock().unwrap().push_back(fault);
    }

    fn refusal(&self, batch: &[NewItem]) -> Option<Error> {
        let refused = self.refused.lock().unwrap();
        let bad = batch.iter().any(|row| row.message.text.as_str() == REFUSED);
        refused.as_ref().filter(|_| bad).map(Error::copy)
    }
}

#[async_trait]
impl Items for FaultyItems {
    async fn insert(&self, batch: &[NewItem]) -> Result<Vec<Inserted>> {
        self.inserts.lock().unwrap().push(batch.len());
        if let Some(error) = self.refusal(batch) {
            return Err(error);
        }
        let fault = self.faults.lock().unwrap().pop_front();
        match fault {
            None => self.items.insert(batch).await,
            Some(Fault::Fails(error)) => Err(error),
            Some(Fault::AnswerLost) => {
                self.items.insert(batch).await?;
                Err(Error::unknown("insert items: the answer was lost"))
            }
        }
    }

    async fn get(&self, ids: &[MessageId]) -> Result<Vec<Option<Item>>> {
        self.items.get(ids).await
    }

    async fn list(&self, query: &ItemQuery) -> Result<Page<Item>> {
        self.items.list(query).await
    }

    async fn expire(&self, before: Timestamp, max: u32) -> Result<Expired> {
        self.items.expire(before, max).await
    }

    async fn ping(&self) -> Result<()> {
        self.items.ping().await
    }
}
