//! `Items`.

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    id::MessageId,
    item::Item,
    page::Page,
    ports::{Expired, Inserted, ItemQuery, Items, NewItem},
    time::Timestamp,
};

use super::{Faulty, POISON};

#[async_trait]
impl Items for Faulty<dyn Items> {
    async fn insert(&self, batch: &[NewItem]) -> Result<Vec<Inserted>> {
        // It stands for a row that the table's checks refuse, which fails its whole batch.
        if batch.iter().any(|item| item.message.text.as_str().contains(POISON)) {
            return Err(Error::rejected("a row breaks a rule of the table"));
        }
        self.line.call("insert items", self.inner.insert(batch)).await
    }

    async fn get(&self, ids: &[MessageId]) -> Result<Vec<Option<Item>>> {
        self.line.call("get items", self.inner.get(ids)).await
    }

    async fn list(&self, query: &ItemQuery) -> Result<Page<Item>> {
        self.line.call("list items", self.inner.list(query)).await
    }

    async fn expire(&self, before: Timestamp, max: u32) -> Result<Expired> {
        self.line.call("expire items", self.inner.expire(before, max)).await
    }

    async fn ping(&self) -> Result<()> {
        self.line.call("ping items", self.inner.ping()).await
    }
}
