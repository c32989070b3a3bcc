use tidings_domain::ports::{Mail, MailErrorClass, MailPhase};
use tidings_servers::{
    authority::Authority,
    smtp::{Act, Options, SmtpServer, Step, TlsMode},
};
use tidings_smtp::{Login, SmtpSettings, Tls};

use super::{impatient, mail, send, settings};

const MESSAGE: &str = "Subject: x\r\n\r\nx\r\n";

async fn server(tls: TlsMode, authority: &Authority, host: &str) -> SmtpServer {
    let login = Some(("ann".to_owned(), "s3cret".to_owned()));
    SmtpServer::start_with(Options { tls, acceptor: Some(authority.acceptor(host)), login, pipelining: true })
        .await
}

/// Settings that trust `authority` and log in.
fn secure(server: &SmtpServer, tls: Tls, authority: &Authority) -> SmtpSettings {
    let login = Some(Login { user: "ann".to_owned(), password: "s3cret".to_owned() });
    SmtpSettings { tls, login, ca_pem: Some(authority.pem()), max_connections: 1, ..settings(server) }
}

#[tokio::test]
async fn starttls_and_smtps_with_a_login_carry_mails() {
    let authority = Authority::new();
    for (mode, tls) in [(TlsMode::StartTls, Tls::StartTls), (TlsMode::Wrapper, Tls::Wrapper)] {
        let server = server(mode, &authority, "127.0.0.1").await;
        let mail = mail(secure(&server, tls, &authority));
        for _ in 0..3 {
            send(&mail, "ann@example.org", MESSAGE).await.unwrap();
        }
        let seen = server.seen();
        assert_eq!((seen.sessions, seen.mails.len(), seen.count("AUTH PLAIN")), (1, 3, 1), "{tls:?}");
        let starts_tls = usize::from(tls == Tls::StartTls);
        assert_eq!((seen.count("STARTTLS"), seen.count("EHLO")), (starts_tls, 1 + starts_tls));
    }
}

#[tokio::test]
async fn without_tls_no_login_and_no_mail_is_sent() {
    let authority = Authority::new();
    // A server, or someone between, that does not offer STARTTLS.
    let plain = server(TlsMode::None, &authority, "127.0.0.1").await;
    let error = mail(secure(&plain, Tls::StartTls, &authority)).ping().await.unwrap_err();
    assert_eq!((error.phase, error.class), (MailPhase::StartTls, MailErrorClass::Unavailable));
    // One that offers and then refuses.
    let refuses = server(TlsMode::StartTls, &authority, "127.0.0.1").await;
    refuses.on(Step::StartTls, Act::Reply("454 4.7.0 no"));
    let error = mail(secure(&refuses, Tls::StartTls, &authority)).ping().await.unwrap_err();
    assert_eq!(
        (error.phase, error.class, error.code),
        (MailPhase::StartTls, MailErrorClass::Unavailable, 454)
    );
    // One that speaks no TLS where it should.
    let error = mail(SmtpSettings { login: None, ..secure(&plain, Tls::Wrapper, &authority) })
        .ping()
        .await
        .unwrap_err();
    assert_eq!((error.phase, error.class), (MailPhase::Tls, MailErrorClass::Unavailable));
    for server in [plain, refuses] {
        let seen = server.seen();
        assert_eq!((seen.count("AUTH"), seen.count("MAIL")), (0, 0), "{:?}", seen.commands);
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_the_servers_or_not_trusted_ends_it() {
    let authority = Authority::new();
    for (mode, tls) in [(TlsMode::StartTls, Tls::StartTls), (TlsMode::Wrapper, Tls::Wrapper)] {
        let other_name = server(mode, &authority, "mail.example.com").await;
        let stranger = server(mode, &Authority::new(), "127.0.0.1").await;
        for server in [other_name, stranger] {
            let error = mail(secure(&server, tls, &authority)).ping().await.unwrap_err();
            // Whoever asked for smtps:// would look for a STARTTLS that was never said.
            assert_eq!((error.phase, error.class), (MailPhase::Tls, MailErrorClass::Unavailable), "{tls:?}");
            assert!(error.text.contains("certificate"), "{}", error.text);
            assert_eq!(server.seen().count("AUTH"), 0);
        }
    }
}

#[tokio::test]
async fn what_comes_with_the_reply_to_starttls_is_not_part_of_the_secure_session() {
    let authority = Authority::new();
    let server = server(TlsMode::StartTls, &authority, "127.0.0.1").await;
    // Someone between adds a reply of theirs, to be read as the first of the secure session.
    server.on(Step::StartTls, Act::Reply("220 2.0.0 go on\n250-injected\n250 AUTH PLAIN"));
    let error = mail(secure(&server, Tls::StartTls, &authority)).ping().await.unwrap_err();
    assert_eq!((error.phase, error.class), (MailPhase::Tls, MailErrorClass::Unavailable));
    assert_eq!(server.seen().count("AUTH"), 0);
}

#[tokio::test]
async fn a_handshake_that_hangs_has_a_deadline() {
    let authority = Authority::new();
    let server = server(TlsMode::StartTls, &authority, "127.0.0.1").await;
    server.on(Step::StartTls, Act::Hang);
    let settings = SmtpSettings {
        tls: Tls::StartTls,
        ca_pem: Some(authority.pem()),
        ..impatient(&server, Step::StartTls)
    };
    let error = mail(settings).ping().await.unwrap_err();
    assert_eq!((error.phase, error.class), (MailPhase::StartTls, MailErrorClass::Unavailable));
}

#[tokio::test]
async fn a_wrong_password_is_a_login_and_a_busy_login_server_an_outage() {
    let authority = Authority::new();
    let server = server(TlsMode::StartTls, &authority, "127.0.0.1").await;
    let wrong = Some(Login { user: "ann".to_owned(), password: "wr0ng".to_owned() });
    let port = mail(SmtpSettings { login: wrong, ..secure(&server, Tls::StartTls, &authority) });
    let error = send(&port, "ann@example.org", MESSAGE).await.map(drop).unwrap_err();
    assert_eq!((error.phase, error.class, error.code), (MailPhase::Auth, MailErrorClass::Login, 535));
    assert!(!format!("{error} {error:?}").contains("wr0ng"));
    server.once(Step::Auth, Act::Reply("454 4.7.0 try later"));
    let port = mail(secure(&server, Tls::StartTls, &authority));
    let error = send(&port, "ann@example.org", MESSAGE).await.map(drop).unwrap_err();
    assert_eq!((error.phase, error.class, error.code), (MailPhase::Auth, MailErrorClass::Unavailable, 454));
    send(&port, "ann@example.org", MESSAGE).await.unwrap();
}
