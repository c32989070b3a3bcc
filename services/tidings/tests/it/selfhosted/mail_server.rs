//! The main job with nothing of ours at its ends: curl posts, and a mail server that we did not write takes the mail.

use std::{path::Path, process::Stdio};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{
    servers::Servers,
    stack::{Stack, free_address},
};
use crate::harness::stdout;

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

#[tokio::test]
async fn a_text_posted_with_curl_arrives_in_the_mailbox_of_a_server_with_aiosmtpd() {
    let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
    let maildir = folder.path().join("mailbox");
    let settings =
        [("SMTP_URL", format!("smtp://{address}")), ("TIDINGS_MAIL_FROM", "tidings@example.com".to_owned())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let stack = Stack::start_on(Servers::shared().await, &settings).await;
    // Nobody waits for the mail server: until it listens the mailer is in an outage, which it comes out of by itself.
    let _mail_server = mail_server(&address, &maildir);
    stack.subscribe_confirmed(&["reader@example.com"]).await;

    let url = format!("{}/v1/topics/messages/messages", stack.url);
    let curl = async |arguments: &[&str]| -> Value {
        let output = Command::new("curl").arg("-s").args(arguments).output().await.unwrap();
        serde_json::from_str(&stdout(&output)).unwrap_or_else(|_| panic!("{arguments:?} gave {output:?}"))
    };
    let accepted = curl(&["-d", "grüße,\n.a dot first", &url]).await;
    let id = accepted["id"].as_str().unwrap();
    let status = curl(&[&format!("{}/v1/messages/{id}?wait=30s", stack.url)]).await;
    assert_eq!((&status["state"], &status["deliveries"]["sent"]), (&json!("done"), &json!(1)), "{status:#}");

    let mails: Vec<_> = std::fs::read_dir(maildir.join("new")).unwrap().collect();
    assert_eq!(mails.len(), 1);
    let source = std::fs::read(mails[0].as_ref().unwrap().path()).unwrap();
    let mail = mail_parser::MessageParser::default().parse(&source).unwrap();
    assert_eq!(mail.subject(), Some("New item on messages"));
    let text = mail.body_text(0).unwrap().replace("\r\n", "\n");
    assert!(text.starts_with("grüße,\n.a dot first\n"), "{text}");
}
