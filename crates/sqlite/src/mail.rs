//! `Mail`: the built-in mail catcher's sending side. Every recipient is accepted; a mail is a row.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tidings_domain::{
    Error, ErrorKind,
    ports::{Mail, MailEnvelope, MailError, MailErrorClass, MailPhase, MailReply, MailTransaction},
    time::Timestamp,
};

use crate::{
    group::{Request, Session},
    mime,
    rows::{Packed, fields},
    shared::{Handle, Shared},
};

/// The newest mails that are kept.
const KEPT: i64 = 10_000;

const INSERT: &str = "INSERT INTO mails (sender, recipient, subject, received_at, size_bytes, source)
    SELECT value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 1, substr(?2, 1 + (value ->> 0), value ->> 1)
    FROM json_each(?1)";

const DROP: &str = "DELETE FROM mails WHERE id <= (SELECT max(id) FROM mails) - ?1";

const LAST: &str = "SELECT max(id) FROM mails";

/// The port.
pub(crate) struct MailCatcher(pub(crate) Arc<Handle>);

#[async_trait]
impl Mail for MailCatcher {
    async fn begin(&self, envelope: &MailEnvelope) -> Result<Box<dyn MailTransaction>, MailError> {
        Ok(Box::new(Transaction { handle: Arc::clone(&self.0), envelope: envelope.clone() }))
    }

    async fn ping(&self) -> Result<(), MailError> {
        let read = sqlx::query(LAST).fetch_one(&self.0.readers).await;
        let read = self.0.read(read, "look into the mailbox");
        read.map(|_| ()).map_err(|error| failed(&error, MailPhase::Connect))
    }
}

struct Transaction {
    handle: Arc<Handle>,
    envelope: MailEnvelope,
}

#[async_trait]
impl MailTransaction for Transaction {
    async fn data(self: Box<Self>, message: Bytes) -> Result<MailReply, MailError> {
        let received_at = self.handle.shared.clock.now();
        let caught = self.handle.write(Catch::new(&self.envelope, message, received_at)).await;
        match caught {
            Ok(id) => Ok(MailReply { code: 250, text: format!("caught as {id}") }),
            Err(error) => Err(failed(&error, MailPhase::Message)),
        }
    }
}

/// What a failed write means for the mail.
fn failed(error: &Error, phase: MailPhase) -> MailError {
    let class = match error.kind {
        ErrorKind::Unknown => MailErrorClass::Unknown,
        ErrorKind::Rejected => MailErrorClass::Permanent,
        _ => MailErrorClass::Unavailable,
    };
    MailError { phase, class, code: 0, text: error.chain() }
}

/// A mail to keep.
pub(crate) struct Catch {
    fields: String,
    source: Bytes,
}

impl Catch {
    fn new(envelope: &MailEnvelope, source: Bytes, received_at: Timestamp) -> Self {
        let subject = mime::subject(&source);
        let fields =
            fields(&(envelope.from.as_str(), envelope.to.as_str(), subject, received_at.as_millis()));
        Self { fields, source }
    }
}

impl Request for Catch {
    /// Its number.
    type Answer = u64;

    const WHAT: &'static str = "keep a mail";

    fn bytes(&self) -> usize {
        self.source.len()
    }

    async fn apply(session: &mut Session, requests: &[Self]) -> sqlx::Result<Vec<u64>> {
        let mut packed = Packed::default();
        for Catch { fields, source } in requests {
            packed.row(source, fields);
        }
        let (json, bytes) = packed.into_parameters();
        let inserted = sqlx::query(INSERT).bind(json).bind(bytes).execute(&mut session.connection).await?;
        let last = inserted.last_insert_rowid();
        if last > KEPT {
            sqlx::query(DROP).bind(KEPT).execute(&mut session.connection).await?;
        }
        let first = last - i64::try_from(requests.len()).unwrap_or_default() + 1;
        Ok((first..=last).map(|id| u64::try_from(id).unwrap_or_default()).collect())
    }

    fn committed(self, _answer: &mut u64, shared: &Shared) {
        shared.caught.notify_waiters();
    }
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 3] = [INSERT, DROP, LAST];
