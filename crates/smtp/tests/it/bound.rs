use std::{sync::Arc, time::Duration};

use tidings_domain::ports::Mail;
use tidings_servers::smtp::{Act, Rule, SmtpServer, Step};
use tidings_smtp::SmtpSettings;
use tokio::task::JoinSet;

use super::{envelope, mail, send, settings};

const MESSAGE: &str = "Subject: x\r\n\r\nx\r\n";

#[tokio::test]
async fn never_more_connections_than_allowed_whatever_happens_to_them() {
    let server = SmtpServer::start().await;
    // Some are dropped, some refused, some said goodbye to: each opens its successor.
    server.rule(Rule::new(Step::Message, Act::Close).after(3).times(5));
    server.rule(Rule::new(Step::Rcpt, Act::ReplyAndClose("421 4.7.0 closing")).after(7).times(5));
    server.rule(Rule::new(Step::Rcpt, Act::Reply("550 5.1.1 no")).after(11).times(5));
    let settings = SmtpSettings { max_connections: 3, max_mails_per_connection: 7, ..settings(&server) };
    let mail = Arc::new(mail(settings));
    let mut tasks = JoinSet::new();
    for number in 0..100 {
        let mail = Arc::clone(&mail);
        tasks.spawn(async move { send(&mail, &format!("a{number}@example.org"), MESSAGE).await.is_ok() });
    }
    let sent = tasks.join_all().await.into_iter().filter(|sent| *sent).count();
    let seen = server.seen();
    assert_eq!(sent, 85);
    assert_eq!(seen.taken().len(), 85);
    assert_eq!(seen.most_open_sessions, 3, "the bound on connections did not hold or was not used");
    assert!(seen.sessions > 10);
}

#[tokio::test]
async fn a_slow_recipient_holds_up_nobody_else() {
    let server = SmtpServer::start().await;
    server.rule(Rule::new(Step::Rcpt, Act::Hold).to("slow@example.org"));
    let mail = Arc::new(mail(SmtpSettings { max_connections: 2, ..settings(&server) }));
    let slow = {
        let mail = Arc::clone(&mail);
        JoinSet::from_iter([async move { send(&mail, "slow@example.org", MESSAGE).await }])
    };
    server.wait_for_commands("RCPT", 1).await;
    for _ in 0..20 {
        send(&mail, "ann@example.org", MESSAGE).await.unwrap();
    }
    server.release();
    assert!(slow.join_all().await.remove(0).is_ok());
}

#[tokio::test]
async fn connections_without_work_are_closed_politely() {
    let server = SmtpServer::start().await;
    let mail = mail(SmtpSettings { idle: Duration::from_millis(10), ..settings(&server) });
    send(&mail, "ann@example.org", MESSAGE).await.unwrap();
    let seen = server.wait_until("the connection was closed", |seen| seen.open_sessions == 0).await;
    assert_eq!(seen.count("QUIT"), 1);
    send(&mail, "ann@example.org", MESSAGE).await.unwrap();
    assert_eq!(server.seen().sessions, 2);
}

#[tokio::test]
async fn dropping_the_port_closes_its_connections() {
    let server = SmtpServer::start().await;
    let mail = mail(settings(&server));
    let transaction = mail.begin(&envelope("ann@example.org")).await.unwrap();
    send(&mail, "bob@example.org", MESSAGE).await.unwrap();
    drop(mail);
    transaction
        .data(bytes::Bytes::from_static(MESSAGE.as_bytes()))
        .await
        .expect("what was begun is finished");
    server.wait_until("every connection was closed", |seen| seen.open_sessions == 0).await;
    assert_eq!(server.seen().count("QUIT"), 2);
}
