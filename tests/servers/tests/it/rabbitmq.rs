use tidings_servers::rabbitmq::RabbitMq;

use crate::stream::{LONG, SHORT, ask, connect};

/// The protocol's header: the server answers with its first frame.
const HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";

#[tokio::test]
async fn with_rabbitmq_queues_survive_every_end() {
    let rabbitmq = RabbitMq::start().await;
    let url = rabbitmq.vhost().await;
    rabbitmq.declare_queue(&url, "kept", r#"{"x-queue-type":"quorum"}"#).await;
    rabbitmq.bind(&url, "amq.fanout", "kept").await;
    assert_eq!(rabbitmq.bindings(&url, "amq.fanout", "kept").await, [""]);

    rabbitmq.stop().await;
    rabbitmq.start_again().await;
    assert_eq!(rabbitmq.queues(&url).await, ["kept"]);
    rabbitmq.kill().await;
    rabbitmq.start_again().await;
    assert_eq!(rabbitmq.queues(&url).await, ["kept"]);

    rabbitmq.unbind(&url, "amq.fanout", "kept").await;
    assert!(rabbitmq.bindings(&url, "amq.fanout", "kept").await.is_empty());
    rabbitmq.delete_queue(&url, "kept").await;
    assert!(rabbitmq.queues(&url).await.is_empty());
}

#[tokio::test]
async fn with_rabbitmq_alarms_and_freezes_end() {
    let rabbitmq = RabbitMq::start().await;
    rabbitmq.raise_alarm().await;
    assert!(
        rabbitmq.ctl(&["eval", "rabbit_alarm:get_alarms()."]).await.contains("memory"),
        "the alarm is on"
    );
    rabbitmq.clear_alarm().await;
    assert!(
        !rabbitmq.ctl(&["eval", "rabbit_alarm:get_alarms()."]).await.contains("memory"),
        "the alarm is off"
    );

    rabbitmq.freeze();
    let mut stream = connect(rabbitmq.addr()).await;
    assert_eq!(ask(&mut stream, HEADER, SHORT).await, None);
    rabbitmq.thaw();
    let answer = ask(&mut stream, b"", LONG).await.expect("it answers");
    assert_eq!(answer.first(), Some(&1), "a method frame");
}

#[tokio::test]
async fn with_rabbitmq_virtual_hosts_are_apart() {
    let rabbitmq = RabbitMq::shared().await;
    let (one, other) = (rabbitmq.vhost().await, rabbitmq.vhost().await);
    rabbitmq.declare_queue(&one, "mine", "{}").await;
    assert_eq!(rabbitmq.queues(&one).await, ["mine"]);
    assert!(rabbitmq.queues(&other).await.is_empty());
}
