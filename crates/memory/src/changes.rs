//! `Changes` and `ChangeStream`: the change log, which an insert writes in its own step.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tidings_domain::{
    Error, Result,
    item::{Change, Item},
    ports::{Captured, ChangeStream, Changes, Clock, Position, StreamHold},
};
use tokio::time::Instant;

use crate::{
    Event, Memory, Part, PausedClock,
    shared::{Shared, State},
};

struct MemoryStream {
    shared: Arc<Shared>,
    clock: PausedClock,
    hold: MemoryHold,
    /// The last change that was handed out.
    at: u64,
}

/// Whose the stream is.
#[derive(Clone)]
struct MemoryHold {
    shared: Arc<Shared>,
    reader: u64,
    life: u64,
}

impl MemoryHold {
    fn is_held(&self, state: &State) -> Result<()> {
        if state.life != self.life || state.reader != Some(self.reader) {
            return Err(Error::unavailable("the store was restarted: open the stream again"));
        }
        Ok(())
    }
}

impl StreamHold for MemoryHold {
    fn check(&self) -> Result<()> {
        self.is_held(&self.shared.lock())
    }
}

fn gap() -> Error {
    Error::gap("changes that were not confirmed can no longer be read: run tidings recover")
}

impl Memory {
    /// Takes the stream when nobody has it.
    fn take_stream(&self) -> Result<Option<MemoryStream>> {
        let mut state = self.shared().lock();
        state.check(Part::Store)?;
        if state.gap {
            return Err(gap());
        }
        if state.reader.is_some() {
            return Ok(None);
        }
        let reader = state.number();
        state.reader = Some(reader);
        let shared = Arc::clone(self.shared());
        let hold = MemoryHold { shared: Arc::clone(&shared), reader, life: state.life };
        Ok(Some(MemoryStream { shared, clock: self.clock(), hold, at: state.confirmed }))
    }
}

#[async_trait]
impl Changes for Memory {
    async fn open(&self) -> Result<Box<dyn ChangeStream>> {
        self.shared().pause().await;
        loop {
            let changed = self.shared().log_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(stream) = self.take_stream()? {
                self.shared().pause().await;
                return Ok(Box::new(stream));
            }
            changed.await;
        }
    }

    fn is_standing_by(&self) -> bool {
        self.shared().lock().reader.is_some()
    }

    async fn backlog(&self) -> Result<u64> {
        self.shared().operate(Part::Store, |state, _| Ok(state.log.len() as u64)).await
    }
}

impl MemoryStream {
    fn check(&self, state: &State) -> Result<()> {
        self.hold.is_held(state)?;
        state.check(Part::Store)?;
        if state.gap { Err(gap()) } else { Ok(()) }
    }

    fn read(&self, max: usize) -> Result<Vec<(u64, Item)>> {
        let state = self.shared.lock();
        self.check(&state)?;
        Ok(state.log.range(self.at + 1..).take(max).map(|(number, item)| (*number, item.clone())).collect())
    }
}

#[async_trait]
impl ChangeStream for MemoryStream {
    async fn next(&mut self, max: usize, wait: Duration) -> Result<Vec<Captured>> {
        self.shared.pause().await;
        let deadline = Instant::now() + wait;
        loop {
            let changed = self.shared.log_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if !self.read(max)?.is_empty() {
                break;
            }
            if Instant::now() >= deadline {
                return Ok(Vec::new());
            }
            tokio::select! {
                biased;
                () = changed => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
        self.shared.pause().await;
        let rows = self.read(max)?;
        let captured_at = self.clock.now();
        self.at = rows.last().map_or(self.at, |(number, _)| *number);
        let captured = |(number, item): (u64, Item)| Captured {
            position: Position { partition: 0, offset: number },
            content: Ok(Change {
                event_id: format!("memory-{number}"),
                sequence_number: number.to_string(),
                size_bytes: item.message.size_bytes() as u64,
                item,
                captured_at,
            }),
        };
        Ok(rows.into_iter().map(captured).collect())
    }

    async fn confirm(&mut self, up_to: Position) -> Result<()> {
        self.shared.pause().await;
        let mut ids = Vec::new();
        {
            let mut state = self.shared.lock();
            self.check(&state)?;
            let up_to = up_to.offset.min(self.at);
            while let Some(entry) = state.log.first_entry()
                && *entry.key() <= up_to
            {
                ids.push(entry.remove().message.id);
            }
            state.confirmed = state.confirmed.max(up_to);
        }
        if !ids.is_empty() {
            self.shared.record(Event::Confirmed { ids });
        }
        self.shared.pause().await;
        Ok(())
    }

    fn hold(&self) -> Arc<dyn StreamHold> {
        Arc::new(self.hold.clone())
    }
}

impl Drop for MemoryStream {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if state.reader == Some(self.hold.reader) {
            state.reader = None;
            drop(state);
            self.shared.log_changed.notify_waiters();
        }
    }
}
