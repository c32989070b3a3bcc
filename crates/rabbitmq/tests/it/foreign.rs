//! Another party's client.

use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, BasicRejectOptions, ConfirmSelectOptions,
        ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{FieldTable, ShortString},
};

/// A channel on a connection of its own.
pub(crate) struct Foreign {
    _connection: Connection,
    pub(crate) channel: Channel,
}

impl Foreign {
    pub(crate) async fn connect(url: &str) -> Self {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel }
    }

    /// Publishes to an exchange and waits for the confirm.
    pub(crate) async fn publish(&self, exchange: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions { mandatory: true, immediate: false };
        let confirm = self
            .channel
            .basic_publish(exchange.into(), ShortString::default(), options, body, properties)
            .await
            .unwrap()
            .await
            .unwrap();
        assert!(confirm.is_ack() && confirm.take_message().is_none(), "not taken");
    }

    /// Makes a queue.
    pub(crate) async fn queue(&self, name: &str, arguments: FieldTable) {
        self.channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    }

    /// Makes an exchange that is not what ours is.
    pub(crate) async fn exchange(&self, name: &str, kind: ExchangeKind) {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        self.channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.unwrap();
    }

    pub(crate) async fn bind(&self, queue: &str, exchange: &str) {
        self.channel
            .queue_bind(
                queue.into(),
                exchange.into(),
                ShortString::default(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
    }

    /// Takes messages of a queue and gives each back, `times` in all, as a consumer does that fails at them.
    pub(crate) async fn fail_at(&self, queue: &str, times: usize) {
        use futures::StreamExt as _;
        let options = BasicConsumeOptions::default();
        let mut consumer = self
            .channel
            .basic_consume(queue.into(), "fails".into(), options, FieldTable::default())
            .await
            .unwrap();
        for _ in 0..times {
            let delivery = consumer.next().await.unwrap().unwrap();
            delivery.reject(BasicRejectOptions { requeue: true }).await.unwrap();
        }
    }
}
