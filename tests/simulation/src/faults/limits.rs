//! `Limits`.

use async_trait::async_trait;
use tidings_domain::{
    Result,
    id::MessageId,
    ports::{Admission, Limits, Request},
    time::Timestamp,
};

use super::Faulty;

#[async_trait]
impl Limits for Faulty<dyn Limits> {
    async fn admit(&self, request: &Request, at: Timestamp) -> Result<Admission> {
        self.line.call("admit", self.inner.admit(request, at)).await
    }

    async fn forget(&self, ids: &[MessageId]) -> Result<()> {
        self.line.call("forget", self.inner.forget(ids)).await
    }

    async fn accepted(&self, ids: &[MessageId], at: Timestamp) -> Result<()> {
        self.line.call("accepted", self.inner.accepted(ids, at)).await
    }

    async fn is_accepted(&self, ids: &[MessageId]) -> Result<Vec<Option<Timestamp>>> {
        self.line.call("is accepted", self.inner.is_accepted(ids)).await
    }
}
