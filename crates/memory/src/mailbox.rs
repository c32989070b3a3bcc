//! `Mailbox`: the reading side of what the mail server took. It decodes nothing: subjects and texts are looked at as
//! they are written.

use std::time::Duration;

use async_trait::async_trait;
use tidings_domain::{
    Result,
    page::Page,
    ports::{CaughtMail, CaughtMailSummary, Mailbox, MailboxQuery},
};

use crate::{Memory, TakenMail};

fn summary(mail: &TakenMail) -> CaughtMailSummary {
    CaughtMailSummary {
        id: mail.id,
        from: mail.envelope.from.as_str().to_owned(),
        to: mail.envelope.to.as_str().to_owned(),
        subject: mail.header("Subject").unwrap_or_default(),
        received_at: mail.at,
        size_bytes: mail.message.len() as u64,
    }
}

#[async_trait]
impl Mailbox for Memory {
    async fn list(&self, query: &MailboxQuery) -> Result<Page<CaughtMailSummary>> {
        let foreign =
            || tidings_domain::Error::rejected("the cursor was not made by this list: begin without one");
        let before = query
            .page
            .cursor
            .as_deref()
            .map(|text| text.parse::<u64>().map_err(|_| foreign()))
            .transpose()?;
        self.shared().pause().await;
        let contains = |mail: &TakenMail, text: &str| String::from_utf8_lossy(&mail.message).contains(text);
        let mails = self.mails();
        let wanted = mails.iter().rev().filter(|mail| {
            before.is_none_or(|before| mail.id < before)
                && query.to.as_ref().is_none_or(|to| to == mail.envelope.to.as_str())
                && query.contains.as_ref().is_none_or(|text| contains(mail, text))
        });
        let page = wanted.take(query.page.limit as usize + 1).map(summary).collect();
        self.shared().pause().await;
        Ok(Page::cut(page, query.page.limit, |mail| mail.id.to_string()))
    }

    async fn get(&self, id: u64) -> Result<Option<CaughtMail>> {
        self.shared().pause().await;
        let mail = self.mails().into_iter().find(|mail| mail.id == id);
        self.shared().pause().await;
        Ok(mail.map(|mail| CaughtMail { summary: summary(&mail), source: mail.message }))
    }

    async fn dropped(&self) -> Result<u64> {
        Ok(0)
    }

    async fn changed(&self, wait: Duration) {
        let mailed = self.shared().mailed.notified();
        tokio::pin!(mailed);
        tokio::select! {
            biased;
            () = mailed => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}
