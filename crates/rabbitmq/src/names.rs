//! What things are called on the broker, and with which arguments they are declared.

use lapin::types::{AMQPValue, FieldTable, ShortString};
use tidings_domain::{
    ports::{BusTopic, Queue},
    topic::TopicName,
};

/// Deliveries of a message of a work queue that may fail: a guard against one that kills whoever takes it. Said by name, since
/// RabbitMQ 4 has 20 where nothing is said, and 3.10 drops at the first return where -1 is.
const WORK_QUEUE_LIMIT: i64 = 1000;

/// The same for the safety nets, behind which there is nothing.
const SAFETY_NET_LIMIT: i64 = 1_000_000;

/// Names in one namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    namespace: String,
    topic_prefix: String,
}

impl Names {
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), topic_prefix: format!("{namespace}-topic-") }
    }

    /// The exchange of a topic.
    pub(crate) fn exchange(&self, topic: &BusTopic) -> String {
        match topic {
            BusTopic::Messages(name) => format!("{}{name}", self.topic_prefix),
            BusTopic::Notifications => format!("{}-notifications", self.namespace),
        }
    }

    pub(crate) fn queue(&self, queue: Queue) -> String {
        format!("{}-{}", self.namespace, queue.as_str())
    }

    /// What is said of a topic's binding.
    pub(crate) fn binding(&self, topic: &BusTopic) -> String {
        format!("binding of {} to {}", self.queue(queue_of(topic)), self.exchange(topic))
    }

    /// What has to stand for a publish to `topic` to reach us.
    pub(crate) fn things(&self, topic: &BusTopic) -> [String; 3] {
        [self.exchange(topic), self.queue(queue_of(topic)), self.binding(topic)]
    }

    /// The topic that an exchange is, if it is one of ours.
    pub(crate) fn topic_of(&self, exchange: &str) -> Option<TopicName> {
        TopicName::parse(exchange.strip_prefix(&self.topic_prefix)?).ok()
    }

    /// The arguments of a queue. None of them depends on a setting: a queue's arguments can never be changed.
    ///
    /// Dead letters go through the default exchange, which routes by the queue's name: there is no binding that could be
    /// missing. At least once, for which the broker asks for `reject-publish`; there is no length limit that it could act on.
    pub(crate) fn arguments(&self, queue: Queue) -> FieldTable {
        let mut arguments = FieldTable::default();
        let mut put = |name: &str, value: AMQPValue| {
            arguments.insert(ShortString::from(name), value);
        };
        let text = |text: &str| AMQPValue::LongString(text.into());
        put("x-queue-type", text("quorum"));
        match queue.safety_net() {
            Some(net) => {
                put("x-delivery-limit", AMQPValue::LongLongInt(WORK_QUEUE_LIMIT));
                put("x-dead-letter-strategy", text("at-least-once"));
                put("x-overflow", text("reject-publish"));
                put("x-dead-letter-exchange", text(""));
                put("x-dead-letter-routing-key", text(&self.queue(net)));
            }
            None => put("x-delivery-limit", AMQPValue::LongLongInt(SAFETY_NET_LIMIT)),
        }
        arguments
    }
}

/// The queue that a topic's messages reach.
pub(crate) fn queue_of(topic: &BusTopic) -> Queue {
    match topic {
        BusTopic::Messages(_) => Queue::Items,
        BusTopic::Notifications => Queue::Mail,
    }
}

/// A name that cannot be too long: namespace (20), words of ours and a topic (40) stay far below AMQP's 255 bytes.
pub(crate) fn short(name: &str) -> ShortString {
    ShortString::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_are_read_back() {
        let names = Names::new("blue");
        let orders = TopicName::parse("orders-eu").unwrap();
        let exchange = names.exchange(&BusTopic::Messages(orders.clone()));
        assert_eq!(exchange, "blue-topic-orders-eu");
        assert_eq!(names.topic_of(&exchange), Some(orders));
        for foreign in ["", "blue-notifications", "green-topic-orders", "blue-topic-", "blue-topic-UPPER"] {
            assert_eq!(names.topic_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn every_limit_is_said_by_name() {
        let names = Names::new("t");
        for queue in Queue::ALL {
            let arguments = names.arguments(queue);
            let limit = arguments.inner().get("x-delivery-limit").unwrap();
            let expected = if queue.safety_net().is_some() { 1000 } else { 1_000_000 };
            assert_eq!(limit, &AMQPValue::LongLongInt(expected));
        }
    }
}
