//! What metrics tell of messages on their way, and of what is away.

use super::stack::{Stack, until};

/// The sum of a process's series of a metric that have this in their labels.
async fn sum(stack: &Stack, role: &str, metric: &str, labels: &str) -> f64 {
    let samples = stack.process(role).metric(metric).await;
    samples.into_iter().filter(|(of, _)| of.contains(labels)).map(|(_, value)| value).sum()
}

/// How a dependency of a process does.
async fn state(stack: &Stack, role: &str, dependency: &str) -> f64 {
    sum(stack, role, "tidings_dependency_state", &format!("dependency=\"{dependency}\"")).await
}

const STEPS: [(&str, &str); 5] = [
    ("subscriber", "stored"),
    ("cdc-watcher", "captured"),
    ("cdc-watcher", "published"),
    ("mailer", "planned"),
    ("mailer", "mailed"),
];

#[tokio::test]
async fn each_service_tells_of_its_steps_how_long_after_the_acceptance_they_were() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com", "another@example.com"]).await;
    let id = stack.publish("timed").await;
    stack.finished(&id).await;
    for (role, step) in STEPS {
        let label = format!("step=\"{step}\"");
        let times = if step == "mailed" { 2.0 } else { 1.0 };
        until(&format!("{role} has counted {step}"), async || {
            sum(&stack, role, "tidings_messages_reached_after_seconds_count", &label).await == times
        })
        .await;
        let seconds = sum(&stack, role, "tidings_messages_reached_after_seconds_sum", &label).await;
        assert!(seconds < 60.0, "{step} after {seconds} s");
    }
    for (role, queue) in [("subscriber", "items"), ("mailer", "mail")] {
        let label = format!("queue=\"{queue}\"");
        assert_eq!(sum(&stack, role, "tidings_messages_waited_seconds_count", &label).await, 1.0, "{queue}");
    }

    // Of a row by SQL it is the row's own time.
    let row = "insert into items (topic, message, accepted_at) values ('messages', 'by SQL', now() - interval '1 hour') returning id";
    let id = stack.psql(row).await;
    stack.finished(&id).await;
    for (role, step) in &STEPS[1..] {
        let label = format!("step=\"{step}\"");
        until(&format!("{role} has counted {step} of the row"), async || {
            sum(&stack, role, "tidings_messages_reached_after_seconds_sum", &label).await >= 3600.0
        })
        .await;
    }
    let label = "step=\"stored\"";
    let stored = sum(&stack, "subscriber", "tidings_messages_reached_after_seconds_count", label).await;
    assert_eq!(stored, 1.0, "whoever wrote the row is no service of ours");
}

#[tokio::test]
async fn what_is_away_and_how_long_mails_have_been_due_can_be_seen() {
    let mut stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    assert_eq!(state(&stack, "api", "rabbitmq").await, 0.0);
    stack.to_redis.cut().await;
    until("redis is degraded", async || state(&stack, "api", "redis").await == 1.0).await;
    stack.to_redis.heal().await;
    stack.to_rabbitmq.cut().await;
    until("rabbitmq is away", async || state(&stack, "api", "rabbitmq").await == 2.0).await;
    let part = "part=\"subscriber: items\"";
    until("the subscriber waits", async || {
        sum(&stack, "subscriber", "tidings_part_state", part).await == 2.0
    })
    .await;
    stack.to_rabbitmq.heal().await;
    until("rabbitmq is back", async || state(&stack, "api", "rabbitmq").await == 0.0).await;

    stack.process("api").until_ready().await;
    stack.smtp.stop().await;
    stack.publish("due and not sent").await;
    until("one mail waits", async || {
        sum(&stack, "mailer", "tidings_deliveries_open", "state=\"pending\"").await == 1.0
    })
    .await;
    until("it is due", async || {
        stack.process("mailer").total("tidings_deliveries_overdue_seconds").await > 0.0
    })
    .await;
    assert!(state(&stack, "mailer", "smtp").await > 0.0);
    stack.smtp.start_again().await;
    stack.smtp.wait_for_mails(1).await;
}
