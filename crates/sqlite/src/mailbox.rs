//! `Mailbox`: the built-in mail catcher's reading side.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::{Row, sqlite::SqliteRow};
use tidings_domain::{
    Error, Result,
    page::Page,
    ports::{CaughtMail, CaughtMailSummary, Mailbox, MailboxQuery},
};

use crate::{fault::readable, mime, rows, shared::Handle};

macro_rules! columns {
    () => {
        "id, sender, recipient, subject, received_at, size_bytes"
    };
}

const LIST: &str = concat!("SELECT ", columns!(), " FROM mails WHERE id < ?1 ORDER BY id DESC LIMIT ?2");

const LIST_TO: &str =
    concat!("SELECT ", columns!(), " FROM mails WHERE recipient = ?3 AND id < ?1 ORDER BY id DESC LIMIT ?2");

const SEARCH: &str =
    concat!("SELECT ", columns!(), ", source FROM mails WHERE id < ?1 ORDER BY id DESC LIMIT ?2");

const SEARCH_TO: &str = concat!(
    "SELECT ",
    columns!(),
    ", source FROM mails WHERE recipient = ?3 AND id < ?1 ORDER BY id DESC LIMIT ?2"
);

const GET: &str = concat!("SELECT ", columns!(), ", source FROM mails WHERE id = ?1");

/// Numbers begin at 1 and have no gaps: what is before the first one was dropped.
const FIRST: &str = "SELECT min(id) FROM mails";

/// Mails that a search decodes at a time.
const SEARCHED: i64 = 256;

/// The port.
pub(crate) struct SqliteMailbox(pub(crate) Arc<Handle>);

#[async_trait]
impl Mailbox for SqliteMailbox {
    async fn list(&self, query: &MailboxQuery) -> Result<Page<CaughtMailSummary>> {
        let before = match &query.page.cursor {
            Some(cursor) => cursor
                .parse::<u32>()
                .map(i64::from)
                .map_err(|_| Error::rejected("the cursor was not made by this list: begin without one"))?,
            None => i64::MAX,
        };
        let wanted = query.page.limit as usize + 1;
        let found = match &query.contains {
            None => {
                let statement = if query.to.is_some() { LIST_TO } else { LIST };
                let read = self.read(statement, before, i64::from(query.page.limit) + 1, query).await?;
                read.iter().map(summary).collect::<Result<Vec<_>>>()?
            }
            Some(contains) => self.search(before, contains, wanted, query).await?,
        };
        Ok(Page::cut(found, query.page.limit, |mail: &CaughtMailSummary| mail.id.to_string()))
    }

    async fn get(&self, id: u64) -> Result<Option<CaughtMail>> {
        let Ok(id) = i64::try_from(id) else { return Ok(None) };
        let read = sqlx::query(GET).bind(id).fetch_optional(&self.0.readers).await;
        let row = self.0.read(read, "read a mail")?;
        row.map(|row| Ok(CaughtMail { summary: summary(&row)?, source: Bytes::from(source(&row)?) }))
            .transpose()
    }

    async fn dropped(&self) -> Result<u64> {
        let read = sqlx::query(FIRST).fetch_one(&self.0.readers).await;
        let first: Option<i64> = self.0.read(read, "look into the mailbox")?.try_get(0).ok().flatten();
        Ok(first.and_then(|first| u64::try_from(first - 1).ok()).unwrap_or_default())
    }

    async fn changed(&self, wait: Duration) {
        let _caught_or_not = tokio::time::timeout(wait, self.0.shared.caught.notified()).await;
    }
}

impl SqliteMailbox {
    async fn read(
        &self,
        statement: &'static str,
        before: i64,
        limit: i64,
        query: &MailboxQuery,
    ) -> Result<Vec<SqliteRow>> {
        let read = sqlx::query(statement)
            .bind(before)
            .bind(limit)
            .bind(query.to.clone())
            .fetch_all(&self.0.readers)
            .await;
        self.0.read(read, "list mails")
    }

    /// Decodes mails from the newest on until there are enough.
    async fn search(
        &self,
        mut before: i64,
        contains: &str,
        wanted: usize,
        query: &MailboxQuery,
    ) -> Result<Vec<CaughtMailSummary>> {
        let statement = if query.to.is_some() { SEARCH_TO } else { SEARCH };
        let mut found = Vec::new();
        loop {
            let read = self.read(statement, before, SEARCHED, query).await?;
            for row in &read {
                let mail = summary(row)?;
                before = rows::number(row, 0, "number")?;
                if mail.subject.contains(contains) || mime::text(&source(row)?).contains(contains) {
                    found.push(mail);
                }
            }
            if found.len() >= wanted || read.len() < SEARCHED as usize {
                found.truncate(wanted);
                return Ok(found);
            }
        }
    }
}

fn summary(row: &SqliteRow) -> Result<CaughtMailSummary> {
    let text = |column| readable(rows::text(row, column), "text").map(str::to_owned);
    Ok(CaughtMailSummary {
        id: rows::number(row, 0, "number")?,
        from: text(1)?,
        to: text(2)?,
        subject: text(3)?,
        received_at: rows::time(row, 4, "time")?,
        size_bytes: rows::number(row, 5, "size")?,
    })
}

fn source(row: &SqliteRow) -> Result<Vec<u8>> {
    readable(row.try_get::<Vec<u8>, _>(6).ok(), "source")
}

/// This file's statements.
#[cfg(test)]
pub(crate) const STATEMENTS: [&str; 6] = [LIST, LIST_TO, SEARCH, SEARCH_TO, GET, FIRST];
