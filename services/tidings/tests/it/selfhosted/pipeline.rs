//! From a POST to a mail through four processes.

use reqwest::Method;
use serde_json::{Value, json};

use super::stack::{ROLES, Stack};

#[tokio::test]
async fn a_post_is_mailed_to_who_confirmed_by_the_link_in_the_mail() {
    let stack = Stack::start().await;
    let request = json!({ "email": "reader@example.com" });
    stack.ok(stack.request(Method::POST, "/v1/topics/messages/subscriptions").json(&request)).await;
    let confirmation = stack.smtp.wait_for_mails(1).await.remove(0).text();
    let link = confirmation.split_whitespace().find(|word| word.contains("/confirm/")).unwrap();
    assert!(link.starts_with(&stack.url), "the mailer knows where the api is: {link}");
    stack.ok(stack.client.post(link)).await;

    let id = stack.publish("the parcel has arrived").await;
    let status = stack.finished(&id).await;
    assert_eq!(status["state"], "done", "{status:#}");
    assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
    for step in ["accepted_at", "stored_at", "captured_at", "published_at", "first_mail_at"] {
        assert!(status["timeline"][step].is_string(), "{step} in {status:#}");
    }
    let mail = stack.smtp.wait_for_mails(2).await.remove(1);
    assert_eq!(mail.to, "reader@example.com");
    assert!(mail.text().contains("the parcel has arrived"), "{}", mail.text());
    assert_eq!(stack.dead_letters().await, Vec::<Value>::new());
}

#[tokio::test]
async fn a_batch_and_a_topic_of_its_own_go_all_the_way() {
    let stack = Stack::start().await;
    stack.ok(stack.request(Method::PUT, "/v1/topics/orders").json(&json!({ "subject": "An order" }))).await;
    let subscribe =
        json!({ "email": "reader@example.com", "confirmed": true, "filter": { "to": ["reader"] } });
    stack.ok(stack.request(Method::POST, "/v1/topics/orders/subscriptions").json(&subscribe)).await;
    let lines: String = (0..60)
        .map(|number| {
            let to = if number % 3 == 0 { "reader" } else { "nobody" };
            let line = json!({ "message": format!("order {number}"), "attributes": { "to": to } });
            format!("{line}\n")
        })
        .collect();
    let request = stack.request(Method::POST, "/v1/topics/orders/messages");
    let answer = stack.ok(request.header("content-type", "application/x-ndjson").body(lines)).await;
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results.len(), 60, "{answer:#}");
    for (number, result) in results.iter().enumerate() {
        let status = stack.finished(result["id"].as_str().unwrap()).await;
        assert_eq!(status["deliveries"]["total"], usize::from(number % 3 == 0), "{status:#}");
    }
    let mails = stack.smtp.wait_for_mails(20).await;
    assert!(mails.iter().all(|mail| mail.header("Subject").as_deref() == Some("An order")));
}

#[tokio::test]
async fn all_four_in_one_process_do_the_same() {
    let mut stack = Stack::prepare(super::servers::Servers::shared().await, &[]).await;
    stack.provision().await;
    stack.up_as("api", &[]).await;
    let banner = stack.process("api").banner().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let id = stack.publish("in one process").await;
    assert_eq!(stack.finished(&id).await["deliveries"]["sent"], 1);
    for part in
        ["profile selfhosted", &stack.url, "mail goes to 127.0.0.1:", "nobody will get mail", "?wait=10s"]
    {
        assert!(banner.contains(part), "{part} in {banner}");
    }
    stack.stop("api").await;
}

#[tokio::test]
async fn each_process_shows_what_it_needs_and_nothing_else() {
    let stack = Stack::start().await;
    let expected = [
        ("api", vec!["postgres", "rabbitmq", "redis"]),
        ("subscriber", vec!["postgres", "rabbitmq"]),
        ("cdc-watcher", vec!["postgres", "rabbitmq", "replication"]),
        ("mailer", vec!["postgres", "rabbitmq", "smtp"]),
    ];
    for (role, dependencies) in expected {
        let report = stack.process(role).readiness().await;
        let shown: Vec<&str> =
            report["dependencies"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(shown, dependencies, "{role}: {report:#}");
        let banner = stack.process(role).banner().await;
        assert!(banner.contains(role) && banner.contains(&stack.process(role).admin_url), "{banner}");
        assert_eq!(stack.process(role).url.is_some(), role == "api");
        assert_eq!(banner.contains("mail goes to"), role == "mailer", "{banner}");
    }
    for role in ROLES {
        let health = ["health", "--admin", stack.process(role).admin_url.trim_start_matches("http://")];
        assert!(stack.done(&health).await.starts_with("ready"));
    }
}
