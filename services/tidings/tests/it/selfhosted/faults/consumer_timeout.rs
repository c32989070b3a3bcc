//! RabbitMQ gives up on a consumer that holds a message for too long (30 minutes unless told otherwise): 3.10 closes its channel,
//! 4.3 cancels it, and the message is handed out again.

use serde_json::Value;
use tidings_servers::{
    proxy::Proxy,
    rabbitmq::{RabbitMq, RabbitMqOptions},
};

use super::super::{
    servers::{Either, Servers},
    stack::{Stack, until},
};

/// What the broker logs of it.
const TOLD: &str = "has timed out waiting for";

#[tokio::test]
async fn a_consumer_that_the_broker_gave_up_comes_back_and_its_message_with_it() {
    let settings = vec![("consumer_timeout".to_owned(), "1500".to_owned())];
    let options = RabbitMqOptions { settings, ..RabbitMqOptions::default() };
    let (shared, rabbitmq) = tokio::join!(Servers::shared(), RabbitMq::start_with(options));
    // It looks once a minute; channels that are opened from now on do so more often.
    rabbitmq.ctl(&["eval", "application:set_env(rabbit, channel_tick_interval, 300)."]).await;
    let servers = Servers { rabbitmq: Either::Own(rabbitmq), ..shared };
    let mut stack = Stack::prepare(servers, &[]).await;
    stack.provision().await;
    let between = Proxy::to(stack.servers.postgres.addr()).await;
    let database = between.url(stack.setting("DATABASE_URL"));
    let subscriber = stack.make("subscriber", &["subscriber"]);
    subscriber.set("DATABASE_URL", &database);
    // It waits for its insert rather than give the messages back.
    subscriber.set("TIDINGS_DATABASE_STATEMENT_TIMEOUT_MS", "60000");
    stack.up_all().await;
    stack.subscribe_confirmed(&["reader@example.com"]).await;
    let first = stack.publish("before").await;
    assert_eq!(stack.finished(&first).await["deliveries"]["sent"], 1);

    between.freeze();
    let id = stack.publish("held for too long").await;
    until("the broker gives its consumer up", async || stack.servers.rabbitmq.log().contains(TOLD)).await;
    // What comes meanwhile is nobody's but the same consumer's.
    let next = stack.publish("behind it").await;
    between.thaw();
    for (id, text) in [(&id, "held for too long"), (&next, "behind it")] {
        let status = stack.finished(id).await;
        assert_eq!(status["deliveries"]["sent"], 1, "{status:#}");
        assert_eq!(stack.mails(text), 1);
    }
    stack.process("subscriber").until_ready().await;
    // Handed out again and dealt with: nothing of it is left.
    let items = stack.name("items");
    until("the queue is empty", async || {
        let listed = ["list_queues", "-p", &stack.vhost(), "name", "messages"];
        let listed = stack.servers.rabbitmq.ctl(&listed).await;
        listed.lines().any(|line| line.split_whitespace().eq([items.as_str(), "0"]))
    })
    .await;
    assert_eq!(stack.psql("select count(*) from items").await, "3");
    assert_eq!(stack.dead_letters().await, Vec::<Value>::new());
}
