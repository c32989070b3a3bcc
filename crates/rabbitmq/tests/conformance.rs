//! RabbitMQ passes every suite of the ports that it implements: a virtual host for each installation, behind a proxy of its own.

#![expect(clippy::disallowed_methods, reason = "the tests' own chance")]

use std::{process::ExitCode, sync::Arc, time::Duration};

use async_trait::async_trait;
use tidings_conformance::{Adapter, Disturbance, Fixture, Need, OpenInsert, Ports, SentMail, Suite};
use tidings_domain::{
    ports::{DependencyState, Entropy, NewItem},
    topic::TopicName,
};
use tidings_rabbitmq::{Options, RabbitMq};
use tidings_servers::{proxy::Proxy, rabbitmq::RabbitMq as Server};
use tokio::sync::Mutex;

const NAMESPACE: &str = "tidings";

struct RabbitAdapter;

#[async_trait]
impl Adapter for RabbitAdapter {
    fn suites(&self) -> Vec<Suite> {
        vec![Suite::Bus, Suite::Topology]
    }

    fn cannot(&self, need: Need) -> Option<&'static str> {
        match need {
            Need::BusLease => Some("a lease lasts as long as its consumer's channel"),
            Need::Disturb(
                Disturbance::Blocked | Disturbance::Restart | Disturbance::Unbind | Disturbance::Unavailable,
            ) => None,
            Need::OpenInsert | Need::OverlappingInserts | Need::Disturb(_) => Some("no port of this adapter"),
        }
    }

    async fn install(&self) -> Box<dyn Fixture> {
        let server = Server::shared().await;
        let url = server.vhost().await;
        let proxy = Proxy::to(server.addr()).await;
        let provisioning = rabbitmq(&url, server);
        provisioning.topology().declare(&[TopicName::messages()]).await.expect("declare");
        provisioning.close().await;
        Box::new(RabbitFixture { server, url, proxy, opened: Mutex::default() })
    }
}

struct RabbitFixture {
    server: &'static Server,
    url: String,
    proxy: Proxy,
    opened: Mutex<Vec<RabbitMq>>,
}

fn rabbitmq(url: &str, server: &Server) -> RabbitMq {
    let options = Options {
        url: url.to_owned(),
        ca_file: None,
        management_url: Some(server.management_url()),
        namespace: NAMESPACE.to_owned(),
        name: "conformance".to_owned(),
        declares: true,
        confirm_timeout: Duration::from_secs(5),
        unconfirmed: 256,
        entropy: Arc::new(SystemEntropy),
        meter: opentelemetry::global::meter("conformance"),
    };
    RabbitMq::new(options).expect("the options are in order")
}

#[async_trait]
impl Fixture for RabbitFixture {
    async fn open(&self) -> Ports {
        let rabbitmq = rabbitmq(&self.proxy.url(&self.url), self.server);
        let ports =
            Ports { bus: Some(rabbitmq.bus()), topology: Some(rabbitmq.topology()), ..Ports::default() };
        self.opened.lock().await.push(rabbitmq);
        ports
    }

    async fn elapse(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    async fn disturb(&self, what: Disturbance) {
        match what {
            Disturbance::Blocked => self.proxy.freeze(),
            Disturbance::Restart => {
                // AMQP confirms no acknowledgement: one that a kill overtakes is a message that comes again, which the port
                // allows and the suite does not look at. So ours are let through before the connections end.
                for rabbitmq in self.opened.lock().await.drain(..) {
                    rabbitmq.close().await;
                }
                self.proxy.close_connections().await;
            }
            Disturbance::Unavailable => self.proxy.cut().await,
            Disturbance::Unbind => {
                let unbind = async |exchange: &str, queue: &str| {
                    let (exchange, queue) =
                        (format!("{NAMESPACE}-{exchange}"), format!("{NAMESPACE}-{queue}"));
                    self.server.unbind(&self.url, &exchange, &queue).await;
                };
                unbind("topic-messages", "items").await;
                unbind("notifications", "mail").await;
            }
            other => unreachable!("{other:?} is excluded"),
        }
    }

    async fn mend(&self) {
        self.proxy.thaw();
        self.proxy.heal().await;
        for rabbitmq in &*self.opened.lock().await {
            let dependency = rabbitmq.dependency();
            while dependency.state() != DependencyState::Up {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    async fn open_insert(&self, _: NewItem) -> Box<dyn OpenInsert> {
        unreachable!("there is no table here")
    }

    async fn mails(&self) -> Vec<SentMail> {
        unreachable!("there is no mail here")
    }
}

struct SystemEntropy;

impl Entropy for SystemEntropy {
    fn fill(&self, bytes: &mut [u8]) {
        getrandom::fill(bytes).expect("the system gives randomness");
    }
}

fn main() -> ExitCode {
    tidings_conformance::main_of(vec![("with_rabbitmq", Arc::new(RabbitAdapter))]).exit_code()
}
