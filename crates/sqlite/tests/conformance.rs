//! SQLite passes every suite of the ports that it implements.

#![expect(clippy::disallowed_methods, reason = "the tests' own clock and chance")]

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{ConnectOptions, Connection, SqliteConnection, sqlite::SqliteConnectOptions};
use tempfile::TempDir;
use tidings_conformance::{Adapter, Disturbance, Fixture, Need, OpenInsert, Ports, SentMail, Suite};
use tidings_domain::{
    page::PageRequest,
    ports::{Clock, Entropy, MailboxQuery, NewItem},
    text::Subject,
    time::Timestamp,
};
use tidings_sqlite::{DATABASE_FILE, Options, Store};
use tokio::sync::Mutex;

struct SqliteAdapter;

#[async_trait]
impl Adapter for SqliteAdapter {
    fn suites(&self) -> Vec<Suite> {
        vec![
            Suite::Bus,
            Suite::Topology,
            Suite::Items,
            Suite::Changes,
            Suite::Catalog,
            Suite::Subscriptions,
            Suite::Deliveries,
            Suite::DeadLetters,
            Suite::Mail,
            Suite::Mailbox,
        ]
    }

    fn cannot(&self, need: Need) -> Option<&'static str> {
        match need {
            Need::BusLease => Some("a lease lasts as long as its consumer"),
            Need::OverlappingInserts => Some("sqlite has one transaction that writes at a time"),
            Need::Disturb(Disturbance::Unavailable) => {
                Some("there is no server that could be away; the disk's faults are in tests/it")
            }
            Need::Disturb(Disturbance::Gap) => {
                Some("the change log goes as it is confirmed and not otherwise")
            }
            Need::Disturb(
                Disturbance::MailTransient
                | Disturbance::MailRecipient
                | Disturbance::MailPermanent
                | Disturbance::MailUnknown
                | Disturbance::MailLogin,
            ) => Some("the mail catcher takes every mail"),
            Need::OpenInsert
            | Need::Disturb(Disturbance::Blocked | Disturbance::Restart | Disturbance::Unbind) => None,
        }
    }

    async fn install(&self) -> Box<dyn Fixture> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = open(&folder).await;
        Box::new(SqliteFixture { store: Mutex::new(Some(store)), blocking: Mutex::new(None), folder })
    }
}

struct SqliteFixture {
    store: Mutex<Option<Store>>,
    /// Another program's transaction, which keeps ours waiting.
    blocking: Mutex<Option<SqliteConnection>>,
    folder: TempDir,
}

async fn open(folder: &TempDir) -> Store {
    let options = Options {
        directory: folder.path().to_owned(),
        namespace: "tidings".to_owned(),
        clock: Arc::new(WallClock),
        entropy: Arc::new(SystemEntropy),
    };
    Store::open(options).await.expect("open")
}

impl SqliteFixture {
    /// As another program has it.
    async fn foreign(&self) -> SqliteConnection {
        let file = self.folder.path().join(DATABASE_FILE);
        SqliteConnectOptions::new().filename(file).connect().await.expect("another connection")
    }
}

#[async_trait]
impl Fixture for SqliteFixture {
    async fn open(&self) -> Ports {
        let store = self.store.lock().await;
        let store = store.as_ref().expect("the store is open");
        Ports {
            bus: Some(store.bus()),
            topology: Some(store.topology()),
            items: Some(store.items()),
            changes: Some(store.changes()),
            catalog: Some(store.catalog()),
            subscriptions: Some(store.subscriptions()),
            deliveries: Some(store.deliveries()),
            dead_letters: Some(store.dead_letters()),
            limits: None,
            mail: Some(store.mail()),
            mailbox: Some(store.mailbox()),
        }
    }

    async fn elapse(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn disturb(&self, what: Disturbance) {
        match what {
            Disturbance::Restart => {
                let mut store = self.store.lock().await;
                store.take().expect("the store is open").close().await;
                *store = Some(open(&self.folder).await);
            }
            Disturbance::Blocked => {
                let mut foreign = self.foreign().await;
                sqlx::query("BEGIN IMMEDIATE").execute(&mut foreign).await.expect("begin");
                *self.blocking.lock().await = Some(foreign);
            }
            Disturbance::Unbind => {
                sqlx::query("DELETE FROM bus_topics")
                    .execute(&mut self.foreign().await)
                    .await
                    .expect("unbind");
            }
            other => unreachable!("{other:?} is excluded"),
        }
    }

    async fn mend(&self) {
        if let Some(foreign) = self.blocking.lock().await.take() {
            foreign.close().await.expect("close");
        }
    }

    async fn open_insert(&self, item: NewItem) -> Box<dyn OpenInsert> {
        let mut foreign = self.foreign().await;
        let message = item.message;
        sqlx::query("BEGIN IMMEDIATE").execute(&mut foreign).await.expect("begin");
        sqlx::query(
            "INSERT INTO items (id, topic, message, subject, content_type, attributes, accepted_at, stored_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )
        .bind(message.id.to_string())
        .bind(message.topic.as_str().to_owned())
        .bind(message.text.as_str().to_owned())
        .bind(message.subject.as_ref().map(|subject: &Subject| subject.as_str().to_owned()))
        .bind(message.content_type.clone())
        .bind(message.attributes.to_json_text())
        .bind(message.accepted_at.to_string())
        .bind(item.stored_at.to_string())
        .execute(&mut foreign)
        .await
        .expect("insert");
        Box::new(ForeignInsert(foreign))
    }

    async fn mails(&self) -> Vec<SentMail> {
        let mailbox = self.open().await.mailbox();
        let query =
            MailboxQuery { page: PageRequest { limit: 250, cursor: None }, ..MailboxQuery::default() };
        let mut mails = Vec::new();
        for summary in mailbox.list(&query).await.expect("list").data {
            let mail = mailbox.get(summary.id).await.expect("get").expect("a mail that was listed");
            mails.push(SentMail { from: summary.from, to: summary.to, message: mail.source });
        }
        mails.reverse();
        mails
    }
}

struct ForeignInsert(SqliteConnection);

#[async_trait]
impl OpenInsert for ForeignInsert {
    async fn commit(mut self: Box<Self>) {
        sqlx::query("COMMIT").execute(&mut self.0).await.expect("commit");
    }

    async fn roll_back(mut self: Box<Self>) {
        sqlx::query("ROLLBACK").execute(&mut self.0).await.expect("roll back");
    }
}

struct WallClock;

impl Clock for WallClock {
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let millis = since.map_or(0, |since| since.as_millis());
        Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system gives randomness");
    }
}

fn main() -> ExitCode {
    tidings_conformance::main(SqliteAdapter).exit_code()
}
