//! `DeadLetters`.

use std::time::Duration;

use async_trait::async_trait;
use tidings_domain::{
    Result,
    dead_letter::{DeadLetter, DeadLetterSelection, DeadLetterSource},
    delivery::LeaseToken,
    id::DeadLetterId,
    page::{Page, PageRequest},
    ports::{ClaimedDeadLetter, DeadLetterDepth, DeadLetters},
    time::Timestamp,
};

use super::Faulty;

#[async_trait]
impl DeadLetters for Faulty<dyn DeadLetters> {
    async fn put(&self, letters: Vec<DeadLetter>) -> Result<()> {
        self.line.call("put dead letters", self.inner.put(letters)).await
    }

    async fn list(&self, selection: &DeadLetterSelection, page: &PageRequest) -> Result<Page<DeadLetter>> {
        self.line.call("list dead letters", self.inner.list(selection, page)).await
    }

    async fn mark(&self, selection: &DeadLetterSelection, at: Timestamp) -> Result<u64> {
        self.line.call("mark dead letters", self.inner.mark(selection, at)).await
    }

    async fn count(&self, selection: &DeadLetterSelection) -> Result<u64> {
        self.line.call("count dead letters", self.inner.count(selection)).await
    }

    async fn discard(&self, selection: &DeadLetterSelection) -> Result<u64> {
        self.line.call("discard dead letters", self.inner.discard(selection)).await
    }

    async fn claim(
        &self,
        source: DeadLetterSource,
        max: u32,
        token: LeaseToken,
        at: Timestamp,
        lease: Duration,
    ) -> Result<Vec<ClaimedDeadLetter>> {
        self.line.call("claim dead letters", self.inner.claim(source, max, token, at, lease)).await
    }

    async fn settle(&self, settled: Vec<(DeadLetterId, LeaseToken, Option<DeadLetter>)>) -> Result<()> {
        self.line.call("settle dead letters", self.inner.settle(settled)).await
    }

    async fn depths(&self) -> Result<Vec<DeadLetterDepth>> {
        self.line.call("depths of dead letters", self.inner.depths()).await
    }
}
