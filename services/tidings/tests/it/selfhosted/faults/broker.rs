//! Faults of RabbitMQ.
#![expect(clippy::print_stdout, reason = "what a run has seen is shown with --nocapture")]

use serde_json::Value;
use tokio::time::Instant;

use super::{
    super::{
        servers::Servers,
        stack::{ROLES, Stack},
    },
    load::Load,
};

async fn start(settings: &[(&str, &str)]) -> Stack {
    let stack = Stack::start_on(Servers::with_own_rabbitmq().await, settings).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    stack
}

async fn all_ready(stack: &Stack) {
    for role in ROLES {
        stack.process(role).until_ready().await;
    }
}

#[tokio::test]
async fn a_broker_that_is_restarted_and_killed_loses_nothing() {
    let stack = start(&[]).await;
    let load = Load::on(&stack);
    for fault in ["restarted", "killed"] {
        load.until_accepted_more(60).await;
        if fault == "killed" {
            stack.servers.rabbitmq.kill().await;
        } else {
            stack.servers.rabbitmq.stop().await;
        }
        load.until_refused_more(3).await;
        for role in ["api", "subscriber", "cdc-watcher"] {
            stack.process(role).until("not ready", |report| report["ready"] == false).await;
        }
        stack.servers.rabbitmq.start_again().await;
        let answers = Instant::now();
        load.until_accepted_more(1).await;
        println!("{fault}: accepts again {:?} after the broker answers", answers.elapsed());
        all_ready(&stack).await;
    }
    load.until_accepted_more(60).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    // The mailer and its mail server had no fault.
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}

#[tokio::test]
async fn a_memory_alarm_and_connections_closed_by_force_lose_nothing() {
    let stack = start(&[("TIDINGS_AMQP_CONFIRM_TIMEOUT_MS", "1000")]).await;
    let load = Load::on(&stack);
    load.until_accepted_more(60).await;
    stack.servers.rabbitmq.raise_alarm().await;
    // 503, not a wait for ever; and who publishes says why. A broker tells only those who try: the watcher is given a row
    // of its own, since all of the load may be through.
    load.until_refused_more(6).await;
    stack.psql("insert into items (topic, message) values ('nobody', 'x')").await;
    for role in ["api", "cdc-watcher"] {
        stack.process(role).until_it_says("rabbitmq", "takes no publish").await;
    }
    stack.servers.rabbitmq.clear_alarm().await;
    all_ready(&stack).await;
    super::super::stack::until("the row of nobody's is through", async || {
        stack.psql("select count(*) from notifications where finished and topic = 'nobody'").await == "1"
    })
    .await;
    stack
        .psql("delete from notifications where topic = 'nobody'; delete from items where topic = 'nobody'")
        .await;
    for _ in 0..3 {
        load.until_accepted_more(40).await;
        stack.servers.rabbitmq.close_connections().await;
    }
    load.until_accepted_more(40).await;
    all_ready(&stack).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}

#[tokio::test]
async fn queues_that_are_deleted_while_empty_are_made_again() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    load.until_accepted_more(60).await;
    load.pause().await;
    load.ledger().settled(&stack).await;
    let rabbitmq = &stack.servers.rabbitmq;
    for queue in ["items", "mail", "items-dead", "mail-dead"] {
        rabbitmq.delete_queue(&stack.amqp, &stack.name(queue)).await;
    }
    load.resume();
    load.until_accepted_more(60).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
    super::super::stack::until("all four queues stand again", async || {
        let queues = rabbitmq.queues(&stack.amqp).await;
        ["items", "mail", "items-dead", "mail-dead"].iter().all(|queue| queues.contains(&stack.name(queue)))
    })
    .await;
    all_ready(&stack).await;
}

#[tokio::test]
async fn queues_that_are_deleted_and_made_again_at_once_are_consumed() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    let rabbitmq = &stack.servers.rabbitmq;
    for _ in 0..2 {
        load.until_accepted_more(10).await;
        load.pause().await;
        load.ledger().settled(&stack).await;
        for (exchange, queue) in [("topic-messages", "items"), ("notifications", "mail")] {
            let (exchange, queue) = (stack.name(exchange), stack.name(queue));
            let arguments = arguments(&stack, &queue).await;
            rabbitmq.delete_queue(&stack.amqp, &queue).await;
            // Somebody else is faster than whoever consumed it: the broker may then tell nobody of the end.
            rabbitmq.declare_queue(&stack.amqp, &queue, &arguments).await;
            rabbitmq.bind(&stack.amqp, &exchange, &queue).await;
        }
        load.resume();
    }
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}

/// What a queue was declared with.
async fn arguments(stack: &Stack, queue: &str) -> String {
    let vhost = stack.amqp.rsplit('/').next().unwrap();
    let url =
        format!("{}/api/queues/{vhost}/{queue}?columns=arguments", stack.servers.rabbitmq.management_url());
    let told: Value = stack.client.get(url).send().await.unwrap().json().await.unwrap();
    told["arguments"].to_string()
}
