use std::{future::Future, time::Duration};

use tidings_domain::ports::{Dependency, DependencyState, Mail, MailErrorClass, MailPhase};
use tidings_servers::smtp::{Act, Options, Rule, SmtpServer, Step};
use tidings_smtp::SmtpSettings;

use super::{envelope, impatient, mail, send, settings};

const MESSAGE: &str = "Subject: x\r\n\r\nx\r\n";

/// One mail with `act` at `step`, then one without: the first's (phase, class, code) as given, the second taken, and
/// no mail taken but as `taken` says; the same whether or not the server takes commands together.
async fn fails(step: Step, act: Act, phase: MailPhase, class: MailErrorClass, code: u16) {
    for pipelining in [false, true] {
        fails_at(pipelining, step, act.clone(), phase, class, code).await;
    }
}

async fn fails_at(
    pipelining: bool,
    step: Step,
    act: Act,
    phase: MailPhase,
    class: MailErrorClass,
    code: u16,
) {
    let server = SmtpServer::start_with(Options { pipelining, ..Options::default() }).await;
    server.once(step, act.clone());
    let settings = if matches!(act, Act::Hang) { impatient(&server, step) } else { settings(&server) };
    let mail = mail(settings);
    let error = send(&mail, "ann@example.org", MESSAGE).await.expect_err(&format!("{step:?} {act:?}"));
    assert_eq!((error.phase, error.class, error.code), (phase, class, code), "{step:?} {act:?}: {error}");
    send(&mail, "bob@example.org", "Subject: next\r\n\r\nnext\r\n").await.expect("the next mail is sent");
    let taken = server.mails();
    assert_eq!(taken.len(), 1, "{step:?} {act:?}");
    assert_eq!(
        (taken[0].to.as_str(), taken[0].header("subject").as_deref()),
        ("bob@example.org", Some("next"))
    );
}

async fn each<F: Future<Output = ()>>(cases: impl IntoIterator<Item = F>) {
    for case in cases {
        case.await;
    }
}

#[tokio::test]
async fn before_mail_from_everything_is_unavailable() {
    use MailErrorClass::Unavailable;
    let (greeting, ehlo) = (MailPhase::Greeting, MailPhase::Ehlo);
    fails(Step::Greeting, Act::Reply("554 5.3.2 not today"), greeting, Unavailable, 554).await;
    each(
        [
            (Act::ReplyAndClose("421 4.3.2 too busy"), 421),
            (Act::Hang, 0),
            (Act::Close, 0),
            (Act::Garbage(b"HTTP/1.1 400 Bad Request\r\n\r\n"), 0),
        ]
        .map(|(act, code)| fails(Step::Greeting, act, greeting, Unavailable, code)),
    )
    .await;
    each(
        [(Act::Reply("550 no"), 550), (Act::Hang, 0), (Act::Close, 0), (Act::Garbage(b"\x00\xff\r\n"), 0)]
            .map(|(act, code)| fails(Step::Ehlo, act, ehlo, Unavailable, code)),
    )
    .await;
}

#[tokio::test]
async fn refusals_are_classed_by_their_phase() {
    use MailErrorClass::{Login, Permanent, Recipient, Transient, Unavailable};
    let (from, to, data, message) =
        (MailPhase::MailFrom, MailPhase::RcptTo, MailPhase::Data, MailPhase::Message);
    each([
        fails(Step::Mail, Act::Reply("451 4.3.0 later"), from, Transient, 451),
        fails(Step::Mail, Act::Reply("550 5.7.1 not your address"), from, Login, 550),
        fails(Step::Rcpt, Act::Reply("451 4.2.0 greylisted"), to, Transient, 451),
        fails(Step::Rcpt, Act::Reply("550-5.1.1 no such\n550 5.1.1 user"), to, Recipient, 550),
        fails(Step::Rcpt, Act::Reply("554 5.7.1 relaying denied"), to, Permanent, 554),
        fails(Step::Rcpt, Act::ReplyAndClose("421 4.7.0 closing"), to, Unavailable, 421),
        fails(Step::Data, Act::Reply("451 4.3.0 later"), data, Transient, 451),
        fails(Step::Data, Act::Reply("554 5.5.1 no valid recipients"), data, Permanent, 554),
        fails(Step::Data, Act::Reply("250 what"), data, Unavailable, 0),
        fails(Step::Message, Act::Reply("454 4.7.0 throttled"), message, Transient, 454),
        fails(Step::Message, Act::ReplyAndClose("421 4.7.0 closing"), message, Transient, 421),
        fails(Step::Message, Act::Reply("552 5.3.4 too large"), message, Permanent, 552),
        fails(Step::Message, Act::Reply("554 5.6.0 spam"), message, Permanent, 554),
    ])
    .await;
}

#[tokio::test]
async fn unknown_only_after_the_mail_has_begun() {
    use MailErrorClass::{Unavailable, Unknown};
    let (to, data, message) = (MailPhase::RcptTo, MailPhase::Data, MailPhase::Message);
    for act in [Act::Close, Act::Hang] {
        fails(Step::Rcpt, act.clone(), to, Unavailable, 0).await;
        fails(Step::Data, act.clone(), data, Unavailable, 0).await;
        fails(Step::Body, act.clone(), message, Unknown, 0).await;
        fails(Step::Message, act, message, Unknown, 0).await;
    }
    fails(Step::Data, Act::ReplyAndClose("354 go on"), message, Unknown, 0).await;
    fails(Step::Message, Act::Garbage(b"what?\r\n"), message, Unknown, 0).await;
    fails(Step::Message, Act::Reply("354 again"), message, Unknown, 0).await;
    fails(Step::Message, Act::Reply("450-begun\n250 mixed"), message, Unknown, 0).await;
}

#[tokio::test]
async fn replies_in_pieces_are_whole_replies() {
    let server = SmtpServer::start().await;
    let pause = Duration::from_micros(100);
    for step in [Step::Greeting, Step::Ehlo, Step::Mail, Step::Rcpt, Step::Data] {
        server.on(step, Act::Slowly(pause));
    }
    server.on(Step::Message, Act::ReplySlowly("250-2.0.0 taken\n250 2.0.0 as 7", pause));
    let mail = mail(settings(&server));
    for _ in 0..3 {
        let reply = send(&mail, "ann@example.org", MESSAGE).await.unwrap();
        assert_eq!((reply.code, reply.text.as_str()), (250, "2.0.0 taken 2.0.0 as 7"));
    }
    assert_eq!(server.seen().sessions, 1);
}

#[tokio::test]
async fn a_reply_after_its_deadline_is_never_the_next_commands() {
    let steps = [Step::Mail, Step::Rcpt, Step::Data, Step::Message];
    for (step, pipelining) in steps.into_iter().flat_map(|step| [(step, false), (step, true)]) {
        let server = SmtpServer::start_with(Options { pipelining, ..Options::default() }).await;
        server.once(step, Act::Hold);
        let mail = mail(SmtpSettings { max_connections: 1, ..impatient(&server, step) });
        let error = send(&mail, "ann@example.org", MESSAGE).await.unwrap_err();
        assert_eq!(error.code, 0, "{step:?}");
        server.release();
        let before = server.seen().mails.len();
        let reply = send(&mail, "bob@example.org", MESSAGE).await.unwrap();
        assert_eq!(reply.text, format!("2.0.0 queued as {}", before + 1), "{step:?}");
        assert_eq!(server.seen().sessions, 2, "{step:?}: a connection out of step was used again");
    }
}

#[tokio::test]
async fn a_reply_in_an_unusual_form_is_a_reply() {
    // Not UTF-8; no text; lines that end with LF alone. Read as no reply, each would be an unknown outcome.
    for reply in
        [&b"250 angenommen f\xfcr Sie\r\n"[..], b"250\r\n", b"250-one\n250 two\n", b"250-2.0.0\r\n250\r\n"]
    {
        let server = SmtpServer::start().await;
        server.on(Step::Message, Act::Garbage(reply));
        let mail = mail(SmtpSettings { max_connections: 1, ..settings(&server) });
        for _ in 0..2 {
            let taken = send(&mail, "ann@example.org", MESSAGE).await;
            assert_eq!(taken.expect("a reply of 250 takes the mail").code, 250);
        }
        assert_eq!(server.seen().sessions, 1, "{reply:?}");
    }
    let server = SmtpServer::start().await;
    server.on(Step::Rcpt, Act::Garbage(b"550 Benutzer nicht verf\xfcgbar\n"));
    let error = send(&mail(settings(&server)), "ann@example.org", MESSAGE).await.unwrap_err();
    assert_eq!((error.class, error.code), (MailErrorClass::Recipient, 550));
}

#[tokio::test]
async fn a_sender_and_a_recipient_go_together_only_where_they_may() {
    for pipelining in [false, true] {
        let server = SmtpServer::start_with(Options { pipelining, ..Options::default() }).await;
        // Until the sender is answered, only what went with it has come.
        server.once(Step::Mail, Act::Hold);
        let mail = mail(SmtpSettings { max_connections: 1, ..settings(&server) });
        let sending = async { send(&mail, "ann@example.org", MESSAGE).await };
        let looking = async {
            server.wait_for_commands("MAIL", 1).await;
            server.release();
        };
        let (sent, ()) = tokio::join!(sending, looking);
        sent.unwrap();
        // Both refused: the sender's refusal counts, its companion's is read and forgotten.
        server.once(Step::Mail, Act::Reply("451 4.3.0 later"));
        let error = send(&mail, "ann@example.org", MESSAGE).await.unwrap_err();
        assert_eq!((error.phase, error.code), (MailPhase::MailFrom, 451));
        send(&mail, "bob@example.org", MESSAGE).await.unwrap();
        let seen = server.seen();
        assert_eq!((seen.sessions, seen.mails.len()), (1, 2));
        assert_eq!(seen.count("RCPT"), if pipelining { 3 } else { 2 });
    }
}

#[tokio::test]
async fn a_companions_reply_after_its_deadline_ends_the_session() {
    let server = SmtpServer::start_with(Options { pipelining: true, ..Options::default() }).await;
    // The sender is refused, and the reply to the recipient behind it does not come in time.
    server.once(Step::Mail, Act::Reply("451 4.3.0 later"));
    server.once(Step::Rcpt, Act::Hold);
    let mail = mail(SmtpSettings { max_connections: 1, ..impatient(&server, Step::Rcpt) });
    let error = send(&mail, "ann@example.org", MESSAGE).await.unwrap_err();
    assert_eq!((error.phase, error.code), (MailPhase::MailFrom, 451));
    server.release();
    let reply = send(&mail, "bob@example.org", MESSAGE).await.unwrap();
    assert_eq!(reply.text, "2.0.0 queued as 1");
    assert_eq!(server.seen().sessions, 2, "a connection out of step was used again");
}

#[tokio::test]
async fn a_refused_recipient_costs_no_connection() {
    let server = SmtpServer::start().await;
    server.rule(Rule::new(Step::Rcpt, Act::Reply("550 5.1.1 no such user")).to("ann@example.org"));
    let mail = mail(SmtpSettings { max_connections: 1, ..settings(&server) });
    for _ in 0..3 {
        assert!(send(&mail, "ann@example.org", MESSAGE).await.is_err());
        send(&mail, "bob@example.org", MESSAGE).await.unwrap();
    }
    assert_eq!(server.seen().sessions, 1);
    assert_eq!(mail.state(), DependencyState::Up, "a refused recipient says nothing of the server");
}

#[tokio::test]
async fn a_kept_connection_that_is_gone_is_replaced_once() {
    let mut server = SmtpServer::start().await;
    let mail = mail(settings(&server));
    send(&mail, "ann@example.org", MESSAGE).await.unwrap();
    server.start_again().await;
    send(&mail, "bob@example.org", MESSAGE).await.expect("the stale connection is no failure");
    // A server that says goodbye to a kept connection: the same.
    server.once(Step::Mail, Act::ReplyAndClose("421 4.4.2 idle for too long"));
    send(&mail, "cid@example.org", MESSAGE).await.expect("a goodbye to a kept connection is no failure");
    // But not on a fresh one.
    server.rule(Rule::new(Step::Mail, Act::ReplyAndClose("421 4.3.2 going down")).times(2));
    let error = send(&mail, "dan@example.org", MESSAGE).await.unwrap_err();
    assert_eq!((error.class, error.code), (MailErrorClass::Unavailable, 421));
    assert_eq!(server.mails().len(), 3);
}

#[tokio::test]
async fn an_absent_server_is_unavailable_and_seen_again_by_ping() {
    let mut server = SmtpServer::start().await;
    let mail = mail(settings(&server));
    mail.ping().await.unwrap();
    assert_eq!(mail.state(), DependencyState::Up);
    server.stop().await;
    let error = mail.ping().await.unwrap_err();
    assert_eq!((error.phase, error.class), (MailPhase::Connect, MailErrorClass::Unavailable));
    let DependencyState::Down(reason) = mail.state() else { panic!("{:?}", mail.state()) };
    assert!(reason.contains(&server.address().to_string()) && reason.contains("refused"), "{reason}");
    assert!(mail.begin(&envelope("ann@example.org")).await.is_err());
    server.start_again().await;
    mail.ping().await.unwrap();
    assert_eq!(mail.state(), DependencyState::Up);
    assert!(server.seen().count("MAIL") == 0, "a probe sends nothing");
}

#[tokio::test]
async fn what_could_smuggle_a_second_mail_is_not_sent() {
    let server = SmtpServer::start().await;
    let mail = mail(settings(&server));
    for message in ["Subject: x\r\n\r\na\n.\nMAIL FROM:<evil@example.com>\r\n", "Subject: x\r\n\r\na\r.\r\n"]
    {
        let error = send(&mail, "ann@example.org", message).await.unwrap_err();
        assert_eq!((error.phase, error.class), (MailPhase::Data, MailErrorClass::Permanent));
    }
    send(&mail, "ann@example.org", MESSAGE).await.unwrap();
    assert_eq!(server.seen().count("DATA"), 1);
}
