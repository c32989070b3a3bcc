//! `Changes` and `ChangeStream`.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    ports::{Captured, ChangeStream, Changes, Position, StreamHold},
};

use super::{Faulty, Kind, Line};

#[async_trait]
impl Changes for Faulty<dyn Changes> {
    async fn open(&self) -> Result<Box<dyn ChangeStream>> {
        let inner = self.line.call("open changes", self.inner.open()).await?;
        Ok(Box::new(FaultyStream { inner, line: self.line.clone() }))
    }

    fn is_standing_by(&self) -> bool {
        self.inner.is_standing_by()
    }

    async fn backlog(&self) -> Result<u64> {
        self.line.call("backlog of changes", self.inner.backlog()).await
    }
}

struct FaultyStream {
    inner: Box<dyn ChangeStream>,
    line: Line,
}

#[async_trait]
impl ChangeStream for FaultyStream {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Captured>> {
        // An error ends the stream, so that only an outage makes one.
        if self.line.meets(Kind::Unavailable, "next changes") {
            return Err(Error::unavailable("the stream's connection is gone"));
        }
        if self.line.meets(Kind::Slow, "next changes") {
            tokio::time::sleep(self.line.faults.between(20, 1_500)).await;
        }
        let captured = self.inner.next(max, wait).await;
        if matches!(&captured, Ok(some) if !some.is_empty()) && self.line.meets(Kind::Crash, "next changes") {
            return self.line.crash().await;
        }
        captured
    }

    async fn confirm(&mut self, up_to: Position) -> Result<()> {
        self.line.call("confirm changes", self.inner.confirm(up_to)).await
    }

    fn hold(&self) -> Arc<dyn StreamHold> {
        self.inner.hold()
    }
}
