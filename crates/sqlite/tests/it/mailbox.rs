//! The mail catcher beyond the suites: it keeps the newest 10,000 and counts the rest.

use bytes::Bytes;
use futures::future::join_all;
use tidings_domain::{
    address::EmailAddress,
    ports::{MailEnvelope, MailboxQuery},
};

use crate::values::open;

#[tokio::test]
async fn the_newest_10000_are_kept_and_the_dropped_are_counted_over_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mail = store.mail();
    let address = |text: &str| EmailAddress::parse(text).unwrap();
    let envelope = MailEnvelope { from: address("from@example.com"), to: address("to@example.com") };
    for chunk in 0..41 {
        let sends = (0..250).map(|number| {
            let (mail, envelope) = (&mail, &envelope);
            async move {
                let source = format!("Subject: mail {}\r\n\r\ntext", chunk * 250 + number);
                mail.begin(envelope).await.unwrap().data(Bytes::from(source)).await.unwrap()
            }
        });
        assert!(join_all(sends).await.iter().all(|reply| reply.code == 250));
    }
    let mailbox = store.mailbox();
    assert_eq!(mailbox.dropped().await.unwrap(), 250);
    assert_eq!(mailbox.get(250).await.unwrap(), None);
    let oldest = mailbox.get(251).await.unwrap().unwrap();
    assert_eq!(oldest.summary.subject, "mail 250");
    let query = MailboxQuery { contains: Some("mail 3000".to_owned()), ..MailboxQuery::default() };
    assert_eq!(mailbox.list(&query).await.unwrap().data.len(), 1, "a search goes through all of them");
    store.close().await;
    let store = open(folder.path()).await;
    assert_eq!(store.mailbox().dropped().await.unwrap(), 250);
    let reply = store.mail().begin(&envelope).await.unwrap().data(Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(reply.text, "caught as 10251");
}
