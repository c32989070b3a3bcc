//! Log lines as JSON: each a whole object with its service and its trace, each fault with its cause, and nothing personal.

use reqwest::{Method, header};
use serde_json::{Value, json};
use tidings_servers::smtp::{Act, Rule, Step};

use super::{
    foreign::publish,
    servers::Servers,
    stack::{ROLES, Stack, until},
};

const EMAIL: &str = "anna.private@example.com";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// What a line of a fault tells its cause by.
const CAUSES: [&str; 4] = ["error", "reason", "detail", "why"];

/// Faults that have no cause but what they say.
const SAY_IT_ALL: [&str; 1] = ["the outcome of an earlier attempt is unknown"];

/// Posts a text under a trace that is not recorded, which lines name all the same.
async fn post(stack: &Stack, text: &str) -> reqwest::Response {
    let request = stack.request(Method::POST, "/v1/topics/messages/messages");
    let request = request.header("traceparent", format!("00-{TRACE}-b7ad6b7169203331-00"));
    request.header(header::CONTENT_TYPE, "text/plain").body(text.to_owned()).send().await.unwrap()
}

async fn post_and_finish(stack: &Stack, text: &str) -> Value {
    let accepted: Value = post(stack, text).await.json().await.unwrap();
    stack.finished(accepted["id"].as_str().unwrap()).await
}

/// The lines of a process.
fn lines(stack: &Stack, role: &str) -> Vec<Value> {
    let log = stack.process(role).log();
    let lines = log.lines().map(|line| {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{role}: {error}: {line}"))
    });
    lines.collect()
}

/// Holds a line to what every line has to be.
fn is_well_formed(line: &Value, role: &str) {
    let text = |name: &str| line[name].as_str().unwrap_or_else(|| panic!("no {name}: {line}"));
    assert_eq!(text("service"), format!("tidings-{role}"), "{line}");
    assert!(text("timestamp").len() >= 20 && text("timestamp").ends_with('Z'), "{line}");
    assert!(!text("message").is_empty() && !text("target").is_empty(), "{line}");
    assert!(line.as_object().unwrap().values().all(|value| !value.is_object()), "flat: {line}");
    let has_cause = || {
        CAUSES.iter().any(|cause| line[*cause].as_str().is_some_and(|cause| !cause.is_empty()))
            || SAY_IT_ALL.contains(&text("message"))
    };
    match text("level") {
        "WARN" | "ERROR" => assert!(has_cause(), "a fault without its cause: {line}"),
        "INFO" => {}
        level => panic!("{level} is not said by default: {line}"),
    }
}

/// The lines that say this.
fn that_say<'a>(lines: &'a [Value], message: &str) -> Vec<&'a Value> {
    let said: Vec<_> = lines.iter().filter(|line| line["message"] == message).collect();
    assert!(!said.is_empty(), "nobody says {message:?}: {lines:#?}");
    said
}

#[tokio::test]
async fn every_line_is_json_with_its_cause_and_its_trace_and_nothing_personal() {
    let json = [("TIDINGS_LOG_FORMAT", "json")];
    let mut stack = Stack::start_on(Servers::with_own_rabbitmq().await, &json).await;
    let subscribe = stack.request(Method::POST, "/v1/topics/messages/subscriptions");
    stack.ok(subscribe.json(&json!({ "email": EMAIL }))).await;
    let mail = stack.smtp.wait_for_mails(1).await.remove(0).text();
    let link = mail.split_whitespace().find(|word| word.contains("/confirm/")).unwrap().to_owned();
    stack.ok(stack.client.post(&link)).await;

    // A mail whose outcome is unknown, one that is refused for now, and one that is refused for good by a server that talks.
    stack.smtp.once(Step::Message, Act::Close);
    assert_eq!(post_and_finish(&stack, "private words, first").await["state"], "done");
    stack.smtp.once(Step::Rcpt, Act::Reply("451 4.7.1 <anna.private@example.com> later"));
    assert_eq!(post_and_finish(&stack, "private words, second").await["state"], "done");
    stack.smtp.rule(Rule::new(Step::Rcpt, Act::Reply("550 5.1.1 <anna.private@example.com> gone")));
    assert_eq!(post_and_finish(&stack, "private words, third").await["state"], "dead_letter");
    stack.smtp.clear_rules();
    // What is no message.
    let foreign = json!({ "body": "private words\u{0}", "message_id": "nul",
        "headers": { "traceparent": format!("00-{TRACE}-c7ad6b7169203331-00") } });
    assert_eq!(publish(&stack, "topic-messages", &[foreign]).await, ["confirmed"]);
    until("two dead letters", async || stack.dead_letters().await.len() == 2).await;
    // The broker goes away and comes back.
    stack.servers.rabbitmq.stop().await;
    let refused = post(&stack, "private words, refused").await;
    assert_eq!(refused.status(), 503);
    for role in ["api", "subscriber", "cdc-watcher"] {
        stack.process(role).until("not ready", |report| report["ready"] == false).await;
    }
    // A probe's "not ready" is an answer and no fault.
    for _ in 0..3 {
        let answer = stack.request(Method::GET, "/readyz").send().await.unwrap();
        assert_eq!(answer.status(), 503);
    }
    stack.servers.rabbitmq.start_again().await;
    for role in ROLES {
        stack.process(role).until_ready().await;
    }
    assert_eq!(post_and_finish(&stack, "private words, last").await["state"], "done");
    stack.stop_all().await;

    let (mut all, mut text) = (Vec::new(), String::new());
    for role in ROLES {
        let lines = lines(&stack, role);
        lines.iter().for_each(|line| is_well_formed(line, role));
        all.extend(lines);
        text.push_str(&stack.process(role).log());
    }
    let token = link.rsplit('/').next().unwrap();
    for personal in [EMAIL, "anna", "private words", token] {
        assert!(!text.contains(personal), "{personal:?} was logged:\n{text}");
    }
    for secret in ["DATABASE_URL", "AMQP_URL"].into_iter().filter_map(|url| password(stack.setting(url))) {
        assert!(!text.contains(&secret), "a password was logged:\n{text}");
    }
    let of_the_post =
        ["a mail is given up: a dead letter", "the outcome of a mail is unknown", "a request was not served"];
    for message in of_the_post {
        for line in that_say(&all, message) {
            assert_eq!(line["trace_id"], TRACE, "{line}");
            assert_eq!(line["span_id"].as_str().map(str::len), Some(16), "{line}");
        }
    }
    let given_up = that_say(&all, of_the_post[0]);
    assert_eq!(
        (&given_up[0]["reason"], &given_up[0]["code"]),
        (&json!("refused"), &json!(550)),
        "{given_up:#?}"
    );
    // An outage is told when it begins, not at every look.
    let looks: Vec<_> = all
        .iter()
        .filter(|line| {
            line["part"] == "topology" && ["degraded", "waiting"].contains(&line["message"].as_str().unwrap())
        })
        .collect();
    assert!((1..6).contains(&looks.len()), "{looks:#?}");
    let chain = looks[0]["reason"].as_str().unwrap();
    assert!(chain.split(": ").count() > 2, "{chain}");
    let not_served = that_say(&all, "a request was not served");
    assert!(not_served.iter().all(|line| line["route"] != "/readyz"), "{not_served:#?}");
    assert!(that_say(&all, "a dead letter").iter().all(|line| line["trace_id"] == TRACE));
    // The whole chain, from what was tried to what the system said.
    let chain = that_say(&all, "not connected to the broker; trying again")[0]["error"].as_str().unwrap();
    assert!(chain.split(": ").count() > 2 && chain.contains("connect"), "{chain}");
}

/// The password of a URL, where it has one.
fn password(url: &str) -> Option<String> {
    let authority = url.split("://").nth(1)?.split('/').next()?;
    let (user, _) = authority.rsplit_once('@')?;
    user.split_once(':').map(|(_, password)| password.to_owned()).filter(|it| it.len() > 5)
}
