//! The main job against a mail server that we did not write: its mailbox holds what curl posted.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::harness::{Server, stdout};

/// aiosmtpd, which keeps what it takes in a Maildir. It ends with the test.
fn mail_server(address: &str, maildir: &Path) -> Child {
    Command::new("/usr/bin/python3")
        .args(["-m", "aiosmtpd", "-n", "-c", "aiosmtpd.handlers.Mailbox", "-l", address])
        .arg(maildir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A port of this machine that nobody has right now.
fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn a_text_posted_with_curl_arrives_in_the_mailbox_of_a_server_with_aiosmtpd() {
    let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
    let maildir = folder.path().join("mailbox");
    let smtp = format!("smtp://{address}");
    let settings = [("SMTP_URL", smtp.as_str()), ("TIDINGS_MAIL_FROM", "tidings@example.com")];
    let server = Server::start_with(&settings).await;
    // Nobody waits for the mail server: until it listens the mailer is in an outage, which it comes out of by itself.
    let _mail_server = mail_server(&address, &maildir);
    let request = json!({ "email": "reader@example.com", "confirmed": true });
    let subscribe = server.request(reqwest::Method::POST, "/v1/topics/messages/subscriptions").json(&request);
    server.ok(subscribe).await;

    let url = format!("{}/v1/topics/messages/messages", server.url);
    let posted =
        Command::new("curl").args(["-s", "-d", "grüße,\n.a dot first", &url]).output().await.unwrap();
    let accepted: Value = serde_json::from_str(&stdout(&posted)).unwrap();
    let status = server.finished(accepted["id"].as_str().unwrap()).await;
    assert_eq!((&status["state"], &status["deliveries"]["sent"]), (&json!("done"), &json!(1)), "{status:#}");

    let mails: Vec<_> = std::fs::read_dir(maildir.join("new")).unwrap().collect();
    assert_eq!(mails.len(), 1);
    let source = std::fs::read(mails[0].as_ref().unwrap().path()).unwrap();
    let mail = mail_parser::MessageParser::default().parse(&source).unwrap();
    assert_eq!(mail.subject(), Some("New item on messages"));
    let text = mail.body_text(0).unwrap().replace("\r\n", "\n");
    assert!(text.starts_with("grüße,\n.a dot first\n"), "{text}");
    let header = |name: &str| String::from_utf8_lossy(&source).contains(name);
    assert!(header("X-RcptTo: reader@example.com") && header("X-MailFrom: tidings@example.com"));
    assert!(header("List-Unsubscribe-Post: List-Unsubscribe=One-Click"));
}
