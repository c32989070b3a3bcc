//! Bindings that somebody takes away.
#![expect(clippy::print_stdout, reason = "what a run has seen is shown with --nocapture")]

use reqwest::Method;
use serde_json::Value;
use tokio::time::{Duration, Instant};

use super::{
    super::stack::{Stack, until},
    load::Load,
};

/// Our queues with what each is bound to.
const BOUND: [(&str, &str); 2] = [("topic-messages", "items"), ("notifications", "mail")];

/// How soon a missing binding is told: the default look is each 5 s, and this machine may be busy.
const ALARM: Duration = Duration::from_secs(10);

async fn is_bound(stack: &Stack, (exchange, queue): (&str, &str)) -> bool {
    let (exchange, queue) = (stack.name(exchange), stack.name(queue));
    !stack.servers.rabbitmq.bindings(&stack.amqp, &exchange, &queue).await.is_empty()
}

async fn unbind(stack: &Stack, (exchange, queue): (&str, &str)) {
    let (exchange, queue) = (stack.name(exchange), stack.name(queue));
    stack.servers.rabbitmq.unbind(&stack.amqp, &exchange, &queue).await;
}

#[tokio::test]
async fn queues_that_are_unbound_are_bound_again_and_nothing_is_lost() {
    let stack = Stack::start().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let load = Load::on(&stack);
    for _ in 0..2 {
        load.until_accepted_more(40).await;
        let missing = stack.process("api").total("tidings_topology_missing_total").await;
        for pair in BOUND {
            unbind(&stack, pair).await;
        }
        // What finds no queue is returned, and never accepted.
        for pair in BOUND {
            until(&format!("{pair:?} is bound again"), async || is_bound(&stack, pair).await).await;
        }
        let told = async || stack.process("api").total("tidings_topology_missing_total").await > missing;
        until("it is counted", told).await;
    }
    load.until_accepted_more(40).await;
    let figures = load.end().await.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}

#[tokio::test]
async fn a_queue_unbound_beside_a_foreign_one_is_an_alarm_and_bound_again() {
    // The default: an alarm within 5 s is its promise.
    let stack = Stack::start_with(&[("TIDINGS_API_TOPOLOGY_CHECK_MS", "5000")]).await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let (rabbitmq, pair) = (&stack.servers.rabbitmq, BOUND[0]);
    let (exchange, queue) = (stack.name(pair.0), stack.name(pair.1));
    rabbitmq.declare_queue(&stack.amqp, "foreign", r#"{"x-queue-type":"quorum"}"#).await;
    rabbitmq.bind(&stack.amqp, &exchange, "foreign").await;
    let load = Load::on(&stack);
    load.until_accepted_more(40).await;
    load.pause().await;

    // The gap: the foreign queue makes a publish routed, and nobody can tell. Who has the rights can do this (promise 2).
    unbind(&stack, pair).await;
    let began = Instant::now();
    let mut gap = Vec::new();
    for number in 0..5 {
        gap.push(stack.publish(&format!("into the gap {number}")).await);
    }
    let api = stack.process("api");
    until("it is counted", async || api.total("tidings_topology_missing_total").await >= 1.0).await;
    let told_after = began.elapsed();
    println!("counted {told_after:?} after it was unbound");
    assert!(told_after < ALARM, "{told_after:?}");
    until("it is bound again", async || is_bound(&stack, pair).await).await;
    let log = api.log();
    let line = log.lines().find(|line| line.contains("found missing")).unwrap();
    println!("reported: {line}");
    // Who reads it knows what was missing and from where on; what it held is in the foreign queue.
    assert!(line.contains("ERROR"), "{line}");
    for part in [format!("binding of {queue} to {exchange}"), "stood_at".to_owned()] {
        assert!(line.contains(&part), "{part} in {line}");
    }
    let status = stack.answer(stack.request(Method::GET, &format!("/v1/messages/{}", gap[0]))).await;
    println!("a message of the gap: {} {}", status.status, status.body);

    load.resume();
    load.until_accepted_more(40).await;
    let mut ledger = load.end().await;
    gap.iter().for_each(|id| ledger.excuse(id));
    let figures = ledger.balances(&stack, 1).await;
    assert_eq!(figures.dead_letters, Vec::<Value>::new());
    assert_eq!((figures.doubled, figures.unknowns, figures.most_attempts), (0, 0, 1), "{figures:?}");
}
