//! Logins, rights, and an operator who makes the topology.

use tidings_domain::{ErrorKind, ports::Queue, topic::TopicName};
use tidings_rabbitmq::RabbitMq;
use tidings_servers::rabbitmq::RabbitMq as Server;

use crate::stage::{Stage, declare, message, options, publish, receive, topic, until_down};

/// The URL of `of` for another login.
fn login(of: &str, user: &str) -> String {
    let (_, rest) = of.split_once('@').unwrap();
    format!("amqp://{user}:hush-1@{rest}")
}

fn vhost(url: &str) -> String {
    url.rsplit('/').next().unwrap().replace("%2F", "/").replace("%2f", "/")
}

#[tokio::test]
async fn without_configure_rights_an_operators_topology_is_looked_at_and_used() {
    let server = Server::shared().await;
    let url = server.vhost().await;
    let user = format!("limited-{}", vhost(&url));
    server.ctl(&["add_user", &user, "hush-1"]).await;
    server.ctl(&["set_permissions", "-p", &vhost(&url), &user, "^$", "^tidings-.*", "^tidings-.*"]).await;
    let mut limited = options(&login(&url, &user), server);
    limited.declares = false;
    let limited = RabbitMq::new(limited).unwrap();

    let error = declare(&limited, &["messages"]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    for name in ["tidings-notifications", "tidings-topic-messages", "tidings-items", "tidings-mail-dead"] {
        assert!(error.context.contains(name), "{name}: {}", error.context);
    }
    let error = limited.bus().consume(Queue::Items, 1).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.context.contains("tidings-items"), "{}", error.context);
    assert!(server.queues(&url).await.is_empty(), "something was made");
    // One who is to declare and may not says so.
    let denied = RabbitMq::new(options(&login(&url, &user), server)).unwrap();
    let error = declare(&denied, &["messages"]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
    assert!(error.context.contains("ACCESS_REFUSED"), "{}", error.context);

    let operator = RabbitMq::new(options(&url, server)).unwrap();
    declare(&operator, &["messages"]).await.unwrap();
    declare(&limited, &["messages"]).await.unwrap();
    publish(&*limited.bus(), &topic("messages"), 0..3).await;
    let consumer = limited.bus().consume(Queue::Items, 5).await.unwrap();
    receive(&*consumer, 3).await;
    // Their management is not for this user: that is no failure.
    assert_eq!(limited.topology().verify(&[TopicName::messages()]).await.unwrap(), []);
}

#[tokio::test]
async fn rights_on_our_own_names_and_the_default_exchange_suffice() {
    let server = Server::shared().await;
    let url = server.vhost().await;
    let user = format!("own-{}", vhost(&url));
    server.ctl(&["add_user", &user, "hush-1"]).await;
    let ours = "^tidings-.*";
    // Dead letters go through the default exchange.
    let write = r"^(tidings-.*|amq\.default)$";
    server.ctl(&["set_permissions", "-p", &vhost(&url), &user, ours, write, ours]).await;
    let rabbitmq = RabbitMq::new(options(&login(&url, &user), server)).unwrap();
    declare(&rabbitmq, &["messages"]).await.unwrap();
    publish(&*rabbitmq.bus(), &topic("messages"), 0..1).await;
    let consumer = rabbitmq.bus().consume(Queue::Items, 1).await.unwrap();
    receive(&*consumer, 1).await;
}

#[tokio::test]
async fn an_operators_queue_with_other_arguments_is_named() {
    let server = Server::shared().await;
    let url = server.vhost().await;
    declare(&RabbitMq::new(options(&url, server)).unwrap(), &["messages"]).await.unwrap();
    server.delete_queue(&url, "tidings-mail").await;
    server.declare_queue(&url, "tidings-mail", r#"{"x-queue-type": "quorum", "x-delivery-limit": 20}"#).await;
    server.bind(&url, "tidings-notifications", "tidings-mail").await;
    let mut verifying = options(&url, server);
    verifying.declares = false;
    let verifying = RabbitMq::new(verifying).unwrap();
    let missing = verifying.topology().verify(&[TopicName::messages()]).await.unwrap();
    let names: Vec<_> = missing.iter().map(|missing| missing.name.as_str()).collect();
    assert!(names.contains(&"x-delivery-limit = 1000 of the queue tidings-mail (it has 20)"), "{names:?}");
    assert!(names.iter().all(|name| name.contains("tidings-mail")), "{names:?}");
    let error = declare(&verifying, &["messages"]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Misconfigured);
}

#[tokio::test]
async fn a_wrong_login_and_a_missing_virtual_host_are_said() {
    let stage = Stage::with(&["messages"]).await;
    let nobody = RabbitMq::new(options(&login(&stage.url, "nobody"), stage.server)).unwrap();
    until_down(&nobody, "user and password").await;
    // The broker takes its time to refuse a login: the first may be answered before.
    let (bus, messages) = (nobody.bus(), topic("messages"));
    let publish = async || bus.publish(&messages, vec![message(0)]).await.remove(0).unwrap_err();
    let mut error = publish().await;
    for _ in 0..5 {
        if error.kind == ErrorKind::Misconfigured {
            break;
        }
        assert_eq!(error.kind, ErrorKind::Unavailable, "{}", error.chain());
        error = publish().await;
    }
    assert_eq!(error.kind, ErrorKind::Misconfigured, "{}", error.chain());
    let chain = error.chain();
    assert!(!chain.contains("nobody") && !chain.contains("hush-1"), "{chain}");
    let nowhere = RabbitMq::new(options(&stage.server.url("nowhere"), stage.server)).unwrap();
    until_down(&nowhere, "virtual host").await;
    let error = nowhere.bus().consume(Queue::Items, 1).await.err().unwrap();
    assert_eq!(error.kind, ErrorKind::Misconfigured, "{}", error.chain());
}
