//! `Mail` and `MailTransaction`.

use async_trait::async_trait;
use bytes::Bytes;
use tidings_domain::ports::{
    Mail, MailEnvelope, MailError, MailErrorClass, MailPhase, MailReply, MailTransaction,
};

use super::{Faulty, Kind, Line};

fn error(phase: MailPhase, class: MailErrorClass, code: u16, text: &str) -> MailError {
    MailError { phase, class, code, text: text.to_owned() }
}

impl Line {
    fn away(&self, what: &'static str) -> Result<(), MailError> {
        if self.faults.lock().mail_away || self.meets(Kind::MailUnavailable, what) {
            let text = "connection refused";
            return Err(error(MailPhase::Connect, MailErrorClass::Unavailable, 0, text));
        }
        Ok(())
    }

    /// A failure that counts as an attempt of a mail to `to`.
    fn failed(&self, to: &str) {
        *self.faults.lock().mail_failures.entry(to.to_owned()).or_default() += 1;
    }
}

#[async_trait]
impl Mail for Faulty<dyn Mail> {
    async fn begin(&self, envelope: &MailEnvelope) -> Result<Box<dyn MailTransaction>, MailError> {
        let (line, what, to) = (&self.line, "begin mail", envelope.to.as_str());
        if line.meets(Kind::Crash, what) {
            return line.crash().await;
        }
        line.away(what)?;
        if line.meets(Kind::Slow, what) {
            tokio::time::sleep(line.faults.between(20, 1_500)).await;
        }
        if line.meets(Kind::MailHang, what) {
            tokio::time::sleep(line.faults.between(2_000, 15_000)).await;
            return Err(error(MailPhase::Greeting, MailErrorClass::Unavailable, 0, "no greeting in time"));
        }
        if line.meets(Kind::MailTransient, what) {
            line.failed(to);
            return Err(error(MailPhase::RcptTo, MailErrorClass::Transient, 451, "4.3.0 later"));
        }
        if line.meets(Kind::MailPermanent, what) {
            line.failed(to);
            return Err(error(MailPhase::RcptTo, MailErrorClass::Recipient, 550, "5.1.1 no such user"));
        }
        let inner = self.inner.begin(envelope).await?;
        Ok(Box::new(FaultyTransaction { inner, line: line.clone(), to: to.to_owned() }))
    }

    async fn ping(&self) -> Result<(), MailError> {
        self.line.away("ping mail")?;
        self.inner.ping().await
    }
}

struct FaultyTransaction {
    inner: Box<dyn MailTransaction>,
    line: Line,
    to: String,
}

#[async_trait]
impl MailTransaction for FaultyTransaction {
    async fn data(self: Box<Self>, message: Bytes) -> Result<MailReply, MailError> {
        let (line, what) = (self.line, "data of mail");
        if line.meets(Kind::MailCrash, what) {
            // Most of the time the server has taken it.
            if line.faults.coin() || line.faults.coin() {
                let _lost = self.inner.data(message).await;
            }
            return line.crash().await;
        }
        let message_phase = |class, code, text| error(MailPhase::Message, class, code, text);
        if line.meets(Kind::Crash, what) {
            if line.faults.coin() {
                let _lost = self.inner.data(message).await;
            }
            return line.crash().await;
        }
        if line.meets(Kind::Slow, what) {
            tokio::time::sleep(line.faults.between(20, 1_500)).await;
        }
        if line.meets(Kind::MailTransient, what) {
            line.failed(&self.to);
            return Err(message_phase(MailErrorClass::Transient, 452, "4.2.2 mailbox full"));
        }
        if line.meets(Kind::MailPermanent, what) {
            line.failed(&self.to);
            return Err(message_phase(MailErrorClass::Permanent, 554, "5.7.1 refused"));
        }
        if line.meets(Kind::MailDrop, what) {
            if line.faults.coin() {
                let _lost = self.inner.data(message).await;
            }
            return Err(message_phase(MailErrorClass::Unknown, 0, "connection closed"));
        }
        if line.meets(Kind::MailHang, what) {
            if line.faults.coin() {
                let _lost = self.inner.data(message).await;
            }
            tokio::time::sleep(line.faults.between(2_000, 40_000)).await;
            return Err(message_phase(MailErrorClass::Unknown, 0, "no reply in time"));
        }
        self.inner.data(message).await
    }
}
