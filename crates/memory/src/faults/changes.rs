//! `Changes` and `ChangeStream` with faults: an error ends the stream.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidings_domain::{
    Result,
    ports::{Captured, ChangeStream, Changes, Position, StreamHold},
};

use super::{Fault, Faults, Faulty, unavailable};

#[async_trait]
impl Changes for Faulty<dyn Changes> {
    async fn open(&self) -> Result<Box<dyn ChangeStream>> {
        let inner = self.faults.call("Changes::open", self.inner.open()).await?;
        Ok(Box::new(FaultyStream { inner, faults: self.faults.clone(), ended: false }))
    }

    fn is_standing_by(&self) -> bool {
        self.inner.is_standing_by()
    }

    async fn backlog(&self) -> Result<u64> {
        self.faults.call("Changes::backlog", self.inner.backlog()).await
    }
}

struct FaultyStream {
    inner: Box<dyn ChangeStream>,
    faults: Faults,
    ended: bool,
}

#[async_trait]
impl ChangeStream for FaultyStream {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Captured>> {
        if self.ended {
            return Err(unavailable("ChangeStream::next"));
        }
        match self.faults.decide("ChangeStream::next") {
            Some(Fault::Reject | Fault::Unavailable | Fault::FailAfterWrite) => {
                self.ended = true;
                return Err(unavailable("ChangeStream::next"));
            }
            // Late before, never after: a call dropped with what it had read would have lost it.
            Some(Fault::Slow | Fault::Hold) => self.faults.wait().await,
            Some(Fault::Duplicate) | None => {}
        }
        self.inner.next(max, wait).await
    }

    async fn confirm(&mut self, up_to: Position) -> Result<()> {
        if self.ended {
            return Err(unavailable("ChangeStream::confirm"));
        }
        let confirmed = self.faults.call("ChangeStream::confirm", self.inner.confirm(up_to)).await;
        self.ended = confirmed.is_err();
        confirmed
    }

    fn hold(&self) -> Arc<dyn StreamHold> {
        self.inner.hold()
    }
}
