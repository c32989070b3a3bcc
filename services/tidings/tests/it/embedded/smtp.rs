//! Mail by SMTP, against a server that is scripted to misbehave.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tidings_servers::smtp::{Act, Rule, SmtpServer, Step};

use crate::harness::Server;

/// A server whose mail goes to `smtp`, with short waits between attempts.
async fn start(smtp: &SmtpServer) -> Server {
    let url = smtp.url();
    Server::start_with(&[
        ("SMTP_URL", &url),
        ("TIDINGS_MAILER_RETRY_FIRST_S", "1"),
        ("TIDINGS_MAILER_RETRY_MOST_S", "1"),
        ("TIDINGS_MAILER_OUTAGE_FIRST_MS", "50"),
        ("TIDINGS_MAILER_OUTAGE_MOST_MS", "200"),
    ])
    .await
}

async fn dead_letters(server: &Server) -> Vec<Value> {
    server.get("/v1/dead-letters").await["data"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_post_arrives_in_a_real_mail_servers_mailbox() {
    let smtp = SmtpServer::start().await;
    let server = start(&smtp).await;
    let address = smtp.address().to_string();
    assert!(server.banner.contains(&format!("mail goes to {address} by SMTP")), "{}", server.banner);
    let request = json!({ "email": "reader@example.com" });
    server.ok(server.request(Method::POST, "/v1/topics/messages/subscriptions").json(&request)).await;
    let confirmation = smtp.wait_for_mails(1).await.remove(0).text();
    let link = confirmation.split_whitespace().find(|word| word.contains("/confirm/")).unwrap();
    server.ok(server.client.post(link)).await;

    let id = server.publish("by SMTP").await;
    let mail = smtp.wait_for_mails(2).await.remove(1);
    assert_eq!(mail.to, "reader@example.com");
    assert!(mail.text().contains("by SMTP"), "{}", mail.text());
    assert_eq!(server.finished(&id).await["deliveries"]["sent"], 1);
    let mailbox = server.answer(server.request(Method::GET, "/mailbox")).await;
    assert_eq!(mailbox.status, StatusCode::NOT_FOUND, "there is no catcher: {mailbox:?}");
}

#[tokio::test]
async fn a_mail_server_that_is_away_uses_no_attempt_and_is_gone_on_with() {
    let mut smtp = SmtpServer::start().await;
    let server = start(&smtp).await;
    server.subscribe_confirmed(&["reader@example.com"]).await;
    smtp.stop().await;
    let id = server.publish("patience").await;
    // What is seen from outside while nothing can be tried: it is open, no attempt is made, readiness names the cause.
    let status = server.get(&format!("/v1/messages/{id}?wait=2s")).await;
    assert_eq!(status["state"], "notified", "{status:#}");
    assert_eq!(server.deliveries(&id).await[0]["attempts"], 0);
    let report = server.client.get(format!("{}/readyz", server.admin_url)).send().await.unwrap();
    let report: Value = report.json().await.unwrap();
    assert_eq!(report["degraded"], true, "{report:#}");
    smtp.start_again().await;
    smtp.wait_for_mails(1).await;
    let status = server.finished(&id).await;
    assert_eq!(status["state"], "done", "{status:#}");
    assert_eq!(server.deliveries(&id).await[0]["attempts"], 1);
    assert_eq!(dead_letters(&server).await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_451_is_tried_again() {
    let smtp = SmtpServer::start().await;
    let server = start(&smtp).await;
    server.subscribe_confirmed(&["reader@example.com"]).await;
    smtp.once(Step::Rcpt, Act::Reply("451 4.7.1 try later"));
    let id = server.publish("later").await;
    assert_eq!(server.finished(&id).await["state"], "done");
    let delivery = server.deliveries(&id).await.remove(0);
    assert_eq!(delivery["attempts"], 2, "{delivery:#}");
    assert_eq!(delivery["answers"][0]["code"], 451, "{delivery:#}");
    assert_eq!(smtp.mails().len(), 1);
}

#[tokio::test]
async fn a_550_fails_one_recipient_with_a_dead_letter_and_no_other() {
    let smtp = SmtpServer::start().await;
    let server = start(&smtp).await;
    server.subscribe_confirmed(&["gone@example.com", "reader@example.com"]).await;
    smtp.rule(
        Rule::new(Step::Rcpt, Act::Reply("550 5.1.1 <gone@example.com> no such user")).to("gone@example.com"),
    );
    let id = server.publish("to two").await;
    let status = server.finished(&id).await;
    assert_eq!(status["state"], "dead_letter", "{status:#}");
    assert_eq!((&status["deliveries"]["sent"], &status["deliveries"]["failed"]), (&json!(1), &json!(1)));
    let letters = dead_letters(&server).await;
    assert_eq!(letters.len(), 1, "{letters:#?}");
    assert_eq!(letters[0]["reason"], "refused");
    assert!(!letters[0].to_string().contains("gone@"), "an address is in subscriptions only: {letters:#?}");
    assert!(!server.log().contains("gone@"), "and not in the log:\n{}", server.log());

    // Mended, it is redriven and arrives.
    smtp.clear_rules();
    let redriven =
        server.request(Method::POST, "/v1/dead-letters/redrive").json(&json!({ "reason": "refused" }));
    assert_eq!(server.ok(redriven).await["count"], 1);
    smtp.wait_until("the redriven mail", |seen| {
        seen.taken().iter().any(|mail| mail.to == "gone@example.com")
    })
    .await;
    assert_eq!(server.finished(&id).await["state"], "done");
    assert_eq!(smtp.mails().len(), 2, "the other got it once");
}

#[tokio::test]
async fn a_connection_dropped_after_the_mail_is_unknown_and_sent_again_as_the_same_mail() {
    let smtp = SmtpServer::start().await;
    let server = start(&smtp).await;
    server.subscribe_confirmed(&["reader@example.com"]).await;
    smtp.once(Step::Message, Act::Close);
    let id = server.publish("perhaps twice").await;
    assert_eq!(server.finished(&id).await["state"], "done");
    let delivery = server.deliveries(&id).await.remove(0);
    assert_eq!((&delivery["attempts"], &delivery["unknowns"]), (&json!(2), &json!(1)), "{delivery:#}");
    let mails = smtp.seen().mails;
    assert_eq!(mails.len(), 2);
    assert_eq!(mails[0].header("Message-ID"), mails[1].header("Message-ID"));
}

#[tokio::test]
async fn a_recipient_whose_server_hangs_holds_up_no_other() {
    let smtp = SmtpServer::start().await;
    let server = start(&smtp).await;
    let others = ["a@example.com", "b@example.com", "c@example.com"];
    server.subscribe_confirmed(&["slow@example.com"]).await;
    server.subscribe_confirmed(&others).await;
    smtp.rule(Rule::new(Step::Message, Act::Hold).to("slow@example.com"));
    let id = server.publish("to the quick first").await;
    smtp.wait_for_mails(others.len()).await;
    let status = server.get(&format!("/v1/messages/{id}?wait=1s")).await;
    assert_eq!(status["state"], "notified", "{status:#}");
    smtp.release();
    let status = server.finished(&id).await;
    assert_eq!(status["deliveries"]["sent"], 4, "{status:#}");
    assert_eq!(smtp.mails().len(), 4);
}
