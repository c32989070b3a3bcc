//! The mail catcher's pages.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use serde_json::json;
use tidings_domain::{address::EmailAddress, ports::MailEnvelope};

use crate::world::{Setup, World, masked};

const BROWSER: (&str, &str) = ("accept", "text/html");

const SOURCE: &str = "From: Tidings <tidings@example.org>\r\nTo: ann@example.com\r\n\
Subject: =?utf-8?q?Caf=C3=A9_<paid>?=\r\nMIME-Version: 1.0\r\n\
Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
Content-Transfer-Encoding: quoted-printable\r\n\r\n\
Caf=C3=A9 <b>. Confirm: http://127.0.0.1:8080/confirm/a.b?c=3D1&d=3D2.\r\n--b\r\n\
Content-Type: text/html; charset=utf-8\r\n\r\n<p onclick=\"x\">Hi</p><script>alert(1)</script>\r\n--b--\r\n";

impl World {
    async fn catch(&self, to: &str, source: &'static str) {
        let address = |text: &str| EmailAddress::parse(text).unwrap();
        let envelope = MailEnvelope { from: address("tidings@example.org"), to: address(to) };
        let transaction = self.memory.mail().begin(&envelope).await.unwrap();
        transaction.data(source.into()).await.unwrap();
    }

    async fn browse_mail(&self, path: &str) -> crate::world::Reply {
        self.call(Method::GET, path, &[BROWSER], "").await
    }
}

#[tokio::test(start_paused = true)]
async fn a_mail_is_found_and_read() {
    let world = World::new();
    world.catch("ann@example.com", SOURCE).await;
    world.catch("bob@example.com", "Subject: Plain\r\n\r\nHello Bob\r\n").await;
    let json = world.get("/mailbox").await.json();
    assert_eq!((json["data"].as_array().unwrap().len(), &json["dropped"]), (2, &json!(0)));
    let json = world.get("/mailbox?to=ann%40example.com&contains=Confirm").await.json();
    assert_eq!(json["data"].as_array().unwrap().len(), 1);
    let folded = world.get("/mailbox?to=ann%40EXAMPLE.com&contains=Confirm").await.json();
    assert_eq!(folded, json, "the domain's case is no part of an address");
    let other = world.get("/mailbox?to=Ann%40example.com").await.json();
    assert_eq!(other["data"], json!([]), "the local part's is");
    let id = json["data"][0]["id"].as_u64().unwrap();
    let path = format!("/mailbox/{id}");
    let mail = world.get(&path).await.json();
    assert_eq!(
        masked(mail, &["received_at", "subject"]),
        json!({
            "id": id,
            "from": "tidings@example.org",
            "to": "ann@example.com",
            "subject": "<subject>",
            "received_at": "<received_at>",
            "size_bytes": SOURCE.len(),
            "text": "Café <b>. Confirm: http://127.0.0.1:8080/confirm/a.b?c=1&d=2.",
            "html": "<p onclick=\"x\">Hi</p><script>alert(1)</script>",
            "links": ["http://127.0.0.1:8080/confirm/a.b?c=1&d=2"],
            "source_url": format!("/mailbox/{id}/source"),
        })
    );
    let source = world.get(&format!("{path}/source")).await;
    assert_eq!((source.text(), source.header("content-type")), (SOURCE, "text/plain; charset=utf-8"));
    let bob = world.get("/mailbox?to=bob%40example.com").await.json()["data"][0]["id"].as_u64().unwrap();
    let mail = world.get(&format!("/mailbox/{bob}")).await.json();
    assert_eq!((&mail["text"], &mail["html"]), (&json!("Hello Bob\r\n"), &json!(null)));
    assert_eq!(world.get(&format!("/mailbox/{bob}/html")).await.problem(), "no-html");
    for missing in ["/mailbox/999", "/mailbox/999/source", "/mailbox/999/html"] {
        assert_eq!(world.get(missing).await.problem(), "unknown-mail");
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_clicks_through_it() {
    let world = World::new();
    world.catch("ann@example.com", SOURCE).await;
    let list = world.browse_mail("/mailbox").await;
    assert_eq!(list.header("content-type"), "text/html; charset=utf-8");
    assert!(list.text().contains("0 older ones were dropped"));
    let from = list.text().find("href=\"/mailbox/").expect("a link to the mail") + "href=\"".len();
    let path = list.text()[from..].split('"').next().unwrap().to_owned();
    let page = world.browse_mail(&path).await;
    let link = "<a href=\"http://127.0.0.1:8080/confirm/a.b?c=1&amp;d=2\" rel=\"noreferrer\">";
    assert!(page.text().contains(link), "{}", page.text());
    assert!(page.text().contains("Café &lt;b&gt;."));
    assert!(page.text().contains("sandbox=\"allow-popups allow-popups-to-escape-sandbox\""));
    assert!(!page.text().contains("<script>"));
    let frame = world.browse_mail(&format!("{path}/html")).await;
    assert!(frame.text().starts_with("<base target=\"_blank\"><p"));
    let policy = frame.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none';") && policy.contains("; sandbox allow-popups"),
        "{policy}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_with_the_mail() {
    let world = World::new();
    world.catch("bob@example.com", SOURCE).await;
    let began = tokio::time::Instant::now();
    let (found, ()) = tokio::join!(world.get("/mailbox?to=ann%40example.com&wait=10s"), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.catch("bob@example.com", SOURCE).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        world.catch("ann@example.com", SOURCE).await;
    });
    assert_eq!(found.json()["data"].as_array().unwrap().len(), 1);
    assert!(began.elapsed() < Duration::from_secs(3));
    let began = tokio::time::Instant::now();
    let none = world.get("/mailbox?to=eve%40example.com&wait=10s").await;
    assert_eq!((none.json()["data"].clone(), began.elapsed().as_secs()), (json!([]), 10));
}

#[tokio::test(start_paused = true)]
async fn where_mails_go_to_smtp_there_is_none() {
    let world = World::with(Setup { mailbox: false, ..Setup::default() });
    for path in ["/mailbox", "/mailbox/1", "/mailbox/1/source", "/mailbox/1/html"] {
        let reply = world.get(path).await;
        assert_eq!((reply.status, reply.problem().as_str()), (StatusCode::NOT_FOUND, "no-mailbox"), "{path}");
    }
    assert_eq!(world.get("/").await.json()["mailbox"], json!(null));
}
