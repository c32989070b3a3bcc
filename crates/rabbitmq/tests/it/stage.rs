//! A virtual host of a test's own, and the steps that most tests begin with.

#![expect(clippy::disallowed_methods, reason = "the tests' own chance")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tidings_domain::{
    Result,
    ports::{Bus, BusTopic, Consumer, DependencyState, Entropy, Lease, Received, Settlement},
    topic::TopicName,
    wire::Envelope,
};
use tidings_rabbitmq::{Options, RabbitMq};
use tidings_servers::rabbitmq::RabbitMq as Server;

use crate::counts::Counts;

/// How long what is to come may take.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// How long is waited to see that nothing comes.
pub(crate) const QUIET: Duration = Duration::from_millis(300);

/// How long a publish may wait for its confirm.
pub(crate) const CONFIRM: Duration = Duration::from_secs(2);

/// A provisioned virtual host of the server that the tests share.
pub(crate) struct Stage {
    pub(crate) server: &'static Server,
    pub(crate) url: String,
    pub(crate) rabbitmq: RabbitMq,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) counts: Counts,
}

impl Stage {
    /// With these topics, `messages` among them.
    pub(crate) async fn with(topics: &[&str]) -> Self {
        let server = Server::shared().await;
        let url = server.vhost().await;
        let counts = Counts::default();
        let mut options = options(&url, server);
        options.meter = counts.meter();
        let rabbitmq = RabbitMq::new(options).unwrap();
        declare(&rabbitmq, topics).await.unwrap();
        Self { server, url, bus: rabbitmq.bus(), rabbitmq, counts }
    }

    /// One more process.
    pub(crate) fn another(&self) -> RabbitMq {
        RabbitMq::new(options(&self.url, self.server)).unwrap()
    }
}

pub(crate) fn options(url: &str, server: &Server) -> Options {
    Options {
        url: url.to_owned(),
        ca_file: None,
        management_url: Some(server.management_url()),
        namespace: "tidings".to_owned(),
        name: "test".to_owned(),
        declares: true,
        confirm_timeout: CONFIRM,
        unconfirmed: 256,
        entropy: Arc::new(SystemEntropy),
        meter: Counts::default().meter(),
    }
}

pub(crate) async fn declare(rabbitmq: &RabbitMq, topics: &[&str]) -> Result<()> {
    let topics: Vec<_> = topics.iter().map(|name| TopicName::parse(name).unwrap()).collect();
    rabbitmq.topology().declare(&topics).await
}

pub(crate) fn topic(name: &str) -> BusTopic {
    BusTopic::Messages(TopicName::parse(name).unwrap())
}

/// A message that is known by `number`.
pub(crate) fn message(number: usize) -> Envelope {
    Envelope {
        headers: BTreeMap::from([("id".to_owned(), format!("{number:08}"))]),
        body: Bytes::from(format!("{number:08}")),
        native_id: None,
        published_to: None,
    }
}

pub(crate) fn number(received: &Received) -> usize {
    std::str::from_utf8(&received.envelope.body).unwrap().parse().unwrap()
}

pub(crate) async fn publish(bus: &dyn Bus, to: &BusTopic, numbers: std::ops::Range<usize>) {
    for answer in bus.publish(to, numbers.map(message).collect()).await {
        answer.unwrap();
    }
}

/// Receives until `count` have come.
pub(crate) async fn receive(consumer: &dyn Consumer, count: usize) -> Vec<Received> {
    let mut all = Vec::new();
    while all.len() < count {
        let received = consumer.receive(count - all.len(), SOON).await.unwrap();
        assert!(!received.is_empty(), "{} of {count} came", all.len());
        all.extend(received);
    }
    all
}

pub(crate) async fn nothing_comes(consumer: &dyn Consumer) {
    let received = consumer.receive(10, QUIET).await.unwrap();
    assert!(received.is_empty(), "{received:?}");
}

pub(crate) async fn settle(consumer: &dyn Consumer, leases: &[Lease], settlement: Settlement) {
    for answer in consumer.settle(leases.iter().map(|lease| (*lease, settlement)).collect()).await {
        answer.unwrap();
    }
}

pub(crate) fn leases(received: &[Received]) -> Vec<Lease> {
    received.iter().map(|received| received.lease).collect()
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

pub(crate) async fn until_up(rabbitmq: &RabbitMq) {
    let dependency = rabbitmq.dependency();
    until("the broker is up", || dependency.state() == DependencyState::Up).await;
}

/// Waits until the broker is down for a reason with these words in it.
pub(crate) async fn until_down(rabbitmq: &RabbitMq, words: &str) {
    let dependency = rabbitmq.dependency();
    let is_down = || matches!(dependency.state(), DependencyState::Down(reason) if reason.contains(words));
    let waiting = async {
        while !is_down() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(SOON, waiting).await;
    assert!(waited.is_ok(), "not down for {words:?} but {:?}", dependency.state());
}

pub(crate) struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).unwrap();
    }
}
