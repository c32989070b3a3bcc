use tidings_servers::rabbitmq::RabbitMq;

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
