//! `Mailbox`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tidings_domain::ports::{Mail, MailEnvelope, MailboxQuery};

use crate::{
    Disturbance, Fixture, Need,
    runner::suite,
    samples::{email, page},
};

suite!(Mailbox {
    a_caught_mail_is_listed_and_shown,
    mails_are_found_by_recipient_and_text,
    a_list_goes_newest_first_in_pages,
    whoever_waits_is_told,
    a_restart_keeps_them [Need::Disturb(Disturbance::Restart)],
});

fn source(subject: &str, text: &str) -> Bytes {
    Bytes::from(format!(
        "From: sender@example.org\r\nSubject: {subject}\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n"
    ))
}

async fn catch(mail: &dyn Mail, to: &str, message: Bytes) {
    let envelope = MailEnvelope { from: email("sender"), to: email(to) };
    let transaction = mail.begin(&envelope).await.expect("begin");
    transaction.data(message).await.expect("data");
}

async fn a_caught_mail_is_listed_and_shown(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let message = source("Hello", "The text");
    catch(&*ports.mail(), "reader", message.clone()).await;
    let listed = ports.mailbox().list(&MailboxQuery::default()).await.expect("list");
    assert_eq!((listed.data.len(), listed.next_cursor), (1, None));
    let summary = &listed.data[0];
    assert_eq!((summary.from.as_str(), summary.to.as_str()), ("sender@example.org", "reader@example.org"));
    assert_eq!((summary.subject.as_str(), summary.size_bytes), ("Hello", message.len() as u64));
    let caught = ports.mailbox().get(summary.id).await.expect("get").expect("it is there");
    assert_eq!((&caught.summary, &caught.source), (summary, &message));
    assert!(ports.mailbox().get(summary.id + 1).await.expect("get").is_none());
    assert_eq!(ports.mailbox().dropped().await.expect("dropped"), 0);
}

async fn mails_are_found_by_recipient_and_text(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    catch(&*ports.mail(), "one", source("Alpha", "red")).await;
    catch(&*ports.mail(), "two", source("Beta", "red and 50% blue_")).await;
    let find = async |to: Option<&str>, contains: Option<&str>| {
        let query = MailboxQuery {
            to: to.map(str::to_owned),
            contains: contains.map(str::to_owned),
            ..Default::default()
        };
        let found = ports.mailbox().list(&query).await.expect("list");
        found.data.into_iter().map(|mail| mail.subject).collect::<Vec<_>>()
    };
    assert_eq!(find(Some("one@example.org"), None).await, ["Alpha"]);
    assert_eq!(find(None, Some("red")).await, ["Beta", "Alpha"]);
    assert_eq!(find(None, Some("Alpha")).await, ["Alpha"], "the subject counts");
    assert_eq!(find(None, Some("50% blue_")).await, ["Beta"]);
    assert!(find(None, Some("5_%")).await.is_empty(), "no character is a wild card");
    assert!(find(Some("one@example.org"), Some("blue")).await.is_empty());
}

async fn a_list_goes_newest_first_in_pages(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    for number in 0..7 {
        catch(&*ports.mail(), "reader", source(&format!("S{number}"), "text")).await;
    }
    let (mut cursor, mut subjects) = (None, Vec::new());
    loop {
        let query = MailboxQuery { page: page(3, cursor), ..Default::default() };
        let read = ports.mailbox().list(&query).await.expect("list");
        subjects.extend(read.data.into_iter().map(|mail| mail.subject));
        catch(&*ports.mail(), "reader", source("later", "text")).await;
        cursor = read.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(subjects, ["S6", "S5", "S4", "S3", "S2", "S1", "S0"]);
}

async fn whoever_waits_is_told(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    let (mail, mailbox) = (ports.mail(), ports.mailbox());
    let told = async { mailbox.changed(Duration::from_secs(3600)).await };
    let caught = async { catch(&*mail, "reader", source("S", "text")).await };
    let both = async { futures::join!(told, caught) };
    tokio::time::timeout(Duration::from_secs(10), both).await.expect("a catch ends the wait");
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, mailbox.changed(Duration::from_millis(50)))
        .await
        .expect("the wait ends by itself");
}

async fn a_restart_keeps_them(fixture: Arc<dyn Fixture>) {
    let ports = fixture.open().await;
    catch(&*ports.mail(), "reader", source("S", "text")).await;
    drop(ports);
    fixture.disturb(Disturbance::Restart).await;
    let listed = fixture.open().await.mailbox().list(&MailboxQuery::default()).await.expect("list");
    assert_eq!(listed.data.len(), 1);
}
