//! What each process says of itself while something is away, and that it comes back by itself.

use reqwest::{Method, StatusCode, header};
use serde_json::Value;

use super::{
    servers::Servers,
    stack::{ROLES, Stack},
};

/// Posts a text; how it was answered.
async fn post(stack: &Stack, text: &str) -> StatusCode {
    let request = stack.request(Method::POST, "/v1/topics/messages/messages");
    let answer = stack.answer(request.header(header::CONTENT_TYPE, "text/plain").body(text.to_owned())).await;
    if answer.status == StatusCode::SERVICE_UNAVAILABLE {
        let _ = answer.problem();
        assert!(answer.headers.contains_key(header::RETRY_AFTER), "{answer:?}");
    }
    answer.status
}

fn is(report: &Value, ready: bool, degraded: bool) -> bool {
    report["ready"] == ready && report["degraded"] == degraded
}

async fn all_well(stack: &Stack) {
    for role in ROLES {
        stack.process(role).until("well", |report| is(report, true, false)).await;
    }
}

#[tokio::test]
async fn each_process_says_what_an_outage_means_to_it_and_comes_back() {
    let mut stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;

    // Accepting needs only the broker.
    stack.to_postgres.cut().await;
    stack.process("api").until("ready, degraded", |report| is(report, true, true)).await;
    assert_eq!(post(&stack, "while Postgres is away").await, StatusCode::ACCEPTED);
    let public = stack.answer(stack.request(Method::GET, "/readyz")).await;
    assert_eq!((public.status, &public.body["status"]), (StatusCode::OK, &Value::from("degraded")));
    for (role, part) in [("subscriber", "postgres"), ("mailer", "postgres"), ("cdc-watcher", "replication")] {
        stack.process(role).until_state(part, "waiting").await;
        stack.process(role).until("not ready", |report| report["ready"] == false).await;
    }
    stack.to_postgres.heal().await;
    all_well(&stack).await;
    stack.smtp.wait_for_mails(1).await;

    stack.to_rabbitmq.cut().await;
    for role in ROLES {
        stack.process(role).until_state("rabbitmq", "waiting").await;
        stack.process(role).until("not ready", |report| report["ready"] == false).await;
    }
    assert_eq!(post(&stack, "while RabbitMQ is away").await, StatusCode::SERVICE_UNAVAILABLE);
    // What is stored is mailed all the same: mails are rows.
    let listed = stack.get("/v1/messages").await;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed:#}");
    stack.to_rabbitmq.heal().await;
    all_well(&stack).await;

    // Nothing is lost without Redis.
    stack.to_redis.cut().await;
    stack.process("api").until_state("redis", "degraded").await;
    assert_eq!(post(&stack, "while Redis is away").await, StatusCode::ACCEPTED);
    assert!(is(&stack.process("api").readiness().await, true, true));
    stack.to_redis.heal().await;
    all_well(&stack).await;
    stack.smtp.wait_for_mails(2).await;

    stack.smtp.stop().await;
    assert_eq!(post(&stack, "while the mail server is away").await, StatusCode::ACCEPTED);
    stack.process("mailer").until_it_says("send mails", "the mail server").await;
    for role in ["api", "subscriber", "cdc-watcher"] {
        assert!(is(&stack.process(role).readiness().await, true, false), "{role}");
    }
    stack.smtp.start_again().await;
    stack.smtp.wait_for_mails(3).await;
    all_well(&stack).await;
    for delivery in stack.all("/v1/messages").await {
        let id = delivery["id"].as_str().unwrap();
        // The mail server has it before its row says so.
        stack.finished(id).await;
        assert_eq!(stack.deliveries(id).await[0]["attempts"], 1, "an outage uses no attempt");
    }
}

#[tokio::test]
async fn without_the_management_api_each_process_says_which_alarm_is_missing_and_is_well() {
    let says = "RABBITMQ_MANAGEMENT_URL is not set, so bindings cannot be seen";
    let mut stack = Stack::prepare(Servers::shared().await, &[("RABBITMQ_MANAGEMENT_URL", "")]).await;
    stack.provision().await;
    stack.up_all().await;
    for role in ROLES {
        let report = stack.process(role).until("well", |report| is(report, true, false)).await;
        assert_eq!(report["dependencies"]["rabbitmq"]["state"], "up", "{report:#}");
        assert!(report["notes"]["rabbitmq"].as_str().unwrap().contains(says), "{report:#}");
        let log = stack.process(role).log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(says)).collect();
        assert!(lines.len() == 1 && lines[0].contains("an alarm is missing"), "{role}: {lines:#?}");
    }
    stack.stop("api").await;
    let url = stack.servers.rabbitmq.management_url();
    stack.process_mut("api").set("RABBITMQ_MANAGEMENT_URL", &url);
    stack.up("api").await;
    let report = stack.process("api").readiness().await;
    assert!(report.get("notes").is_none(), "{report:#}");
}
