use bytes::Bytes;
use tidings_domain::ports::Mail;
use tidings_servers::smtp::{Act, Rule, SmtpServer, Step};

use super::{envelope, mail, send, settings};
use tidings_smtp::SmtpSettings;

const FIRST: &str = "Subject: first\r\n\r\nfirst\r\n";
const SECOND: &str = "Subject: second\r\n\r\nsecond\r\n";

/// The caller goes away while `step` is held. The next mail on the same and only connection gets its own reply: a 554
/// of its own is never taken for an earlier reply.
async fn cancelled_at(step: Step, word: &str) {
    let server = SmtpServer::start().await;
    server.once(step, Act::Hold);
    let mail = mail(SmtpSettings { max_connections: 1, ..settings(&server) });
    {
        let mut sending = std::pin::pin!(send(&mail, "ann@example.org", FIRST));
        tokio::select! {
            biased;
            outcome = &mut sending => panic!("{step:?} was not held: {outcome:?}"),
            () = async { if step == Step::Message {
                server.wait_until("the mail was read", |seen| seen.mails.len() == 1).await;
            } else if step == Step::Greeting {
                server.wait_until("a connection", |seen| seen.sessions == 1).await;
            } else {
                server.wait_for_commands(word, 1).await;
            } } => {}
        }
    }
    let refusal = Act::Reply("554 5.6.0 this is the second's reply");
    server.rule(Rule::new(Step::Message, refusal).to("bob@example.org"));
    let second = tokio::join!(send(&mail, "bob@example.org", SECOND), async { server.release() }).0;
    let error = second.expect_err("the second mail was refused");
    assert_eq!(error.text, "5.6.0 this is the second's reply", "{step:?}");
    server.clear_rules();
    send(&mail, "bob@example.org", SECOND).await.unwrap();
    let seen = server.seen();
    let first = seen.taken().iter().filter(|mail| mail.to == "ann@example.org").count();
    // From `data` on the mail goes its way without its caller; before that nothing is sent.
    assert_eq!(first, usize::from(matches!(step, Step::Data | Step::Message)), "{step:?}");
    assert_eq!(seen.most_open_sessions, 1, "{step:?}");
}

#[tokio::test]
async fn a_caller_who_goes_away_never_puts_a_session_out_of_step() {
    for (step, word) in [
        (Step::Greeting, ""),
        (Step::Ehlo, "EHLO"),
        (Step::Mail, "MAIL"),
        (Step::Rcpt, "RCPT"),
        (Step::Data, "DATA"),
        (Step::Message, ""),
    ] {
        cancelled_at(step, word).await;
    }
}

#[tokio::test]
async fn a_dropped_transaction_sends_nothing_and_leaves_the_connection() {
    let server = SmtpServer::start().await;
    let mail = mail(SmtpSettings { max_connections: 1, ..settings(&server) });
    for _ in 0..3 {
        drop(mail.begin(&envelope("ann@example.org")).await.unwrap());
    }
    send(&mail, "bob@example.org", SECOND).await.unwrap();
    let seen = server.seen();
    assert_eq!((seen.sessions, seen.count("RSET"), seen.count("DATA")), (1, 3, 1));
    assert_eq!(seen.mails.len(), 1);
}

#[tokio::test]
async fn a_caller_who_goes_away_while_it_waits_for_a_connection_leaves_none_behind() {
    let server = SmtpServer::start().await;
    let mail = mail(SmtpSettings { max_connections: 1, ..settings(&server) });
    let held = mail.begin(&envelope("ann@example.org")).await.unwrap();
    for _ in 0..5 {
        let to = envelope("bob@example.org");
        let mut waiting = std::pin::pin!(mail.begin(&to));
        assert!(futures_poll(waiting.as_mut()).await.is_none(), "the only connection is taken");
    }
    held.data(Bytes::from_static(FIRST.as_bytes())).await.unwrap();
    send(&mail, "cid@example.org", SECOND).await.unwrap();
    assert_eq!(server.seen().sessions, 1);
}

/// Polls once.
async fn futures_poll<F: Future>(mut future: std::pin::Pin<&mut F>) -> Option<F::Output> {
    std::future::poll_fn(|cx| {
        std::task::Poll::Ready(match future.as_mut().poll(cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        })
    })
    .await
}
