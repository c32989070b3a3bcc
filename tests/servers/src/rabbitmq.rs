//! RabbitMQ with its management, private to a test.

mod broker;
mod given;
mod management;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use tokio::sync::OnceCell;

use crate::{Source, authority::Certificate, program::beside};
use broker::Broker;
use given::Given;
use management::{Management, encode};

/// How a server differs from [`RabbitMq::start`]'s.
#[derive(Clone, Debug, Default)]
pub struct RabbitMqOptions {
    /// Speaks TLS with this, and nothing else (`amqps://`).
    pub tls: Option<Certificate>,
    /// Lines of `rabbitmq.conf`: name and value.
    pub settings: Vec<(String, String)>,
}

/// A server. It ends, and its data goes, when it is dropped or when this process dies. Seconds go by until it answers: tests that
/// need none of their own share one.
///
/// The user is `guest`, password `guest`, an administrator.
pub struct RabbitMq {
    home: Home,
}

enum Home {
    /// Started by us.
    Ours(Arc<Broker>),
    /// Named by `AMQP_URL`.
    Theirs(Arc<Given>),
}

/// Numbers the virtual hosts.
static NEXT: AtomicU32 = AtomicU32::new(0);

impl RabbitMq {
    /// Starts one on a free port.
    pub async fn start() -> Self {
        Self::start_with(RabbitMqOptions::default()).await
    }

    /// Starts one on a free port.
    pub async fn start_with(options: RabbitMqOptions) -> Self {
        let broker = beside(move || {
            let broker = Broker::new(options);
            broker.start();
            broker
        })
        .await;
        Self { home: Home::Ours(Arc::new(broker)) }
    }

    /// The one that the tests of this process share: the server that `AMQP_URL` names (its management is at
    /// `RABBITMQ_MANAGEMENT_URL`, else at port 15672), else one that whoever asks first starts. Make a virtual host of your own in it.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<RabbitMq> = OnceCell::const_new();
        let make = async || match given::url() {
            Some(url) => Self { home: Home::Theirs(Arc::new(beside(move || Given::new(&url)).await)) },
            None => Self::start().await,
        };
        SHARED.get_or_init(make).await
    }

    /// Makes an empty virtual host; answers its URL.
    pub async fn vhost(&self) -> String {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = match &self.home {
            Home::Ours(_) => format!("test-{number}"),
            Home::Theirs(given) => {
                let given = Arc::clone(given);
                beside(move || given.vhost(number)).await
            }
        };
        let url = self.url(&name);
        self.management(move |management| {
            management.ask("PUT", &format!("/api/vhosts/{name}"), "");
            let all = r#"{"configure":".*","write":".*","read":".*"}"#;
            management.ask("PUT", &format!("/api/permissions/{name}/{}", management.user()), all);
        })
        .await;
        url
    }

    /// The URL of a virtual host.
    pub fn url(&self, vhost: &str) -> String {
        match &self.home {
            Home::Ours(broker) => broker.url(&encode(vhost)),
            Home::Theirs(given) => given.url(&encode(vhost)),
        }
    }

    /// Where it listens for AMQP.
    pub fn addr(&self) -> SocketAddr {
        match &self.home {
            Home::Ours(broker) => broker.address(),
            Home::Theirs(given) => given.address(),
        }
    }

    /// Where it comes from.
    pub fn source(&self) -> Source {
        match &self.home {
            Home::Ours(broker) => broker.server().source(),
            Home::Theirs(_) => Source::Address(given::VARIABLE),
        }
    }

    /// What it says that it is, such as `4.1.3`.
    pub async fn version(&self) -> String {
        self.management(|management| text(&management.ask("GET", "/api/overview", ""), "rabbitmq_version"))
            .await
    }

    /// The management's URL, with the login.
    pub fn management_url(&self) -> String {
        match &self.home {
            Home::Ours(broker) => broker.management().url(),
            Home::Theirs(given) => given.management().url(),
        }
    }

    /// Runs `rabbitmqctl`; answers what it printed. Takes seconds.
    pub async fn ctl(&self, arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let broker = Arc::clone(self.broker());
        beside(move || broker.ctl(&arguments)).await
    }

    /// Stops it as an administrator does; returns when it is down.
    pub async fn stop(&self) {
        self.beside(|broker| broker.server().stop("TERM")).await;
    }

    /// Kills it and all its processes (`kill -9`).
    pub async fn kill(&self) {
        self.beside(|broker| broker.server().kill()).await;
    }

    /// Starts it again with the same data on the same port; returns when it answers.
    pub async fn start_again(&self) {
        self.beside(Broker::start).await;
    }

    /// Stops all its processes where they stand: connections stay and nothing answers.
    pub fn freeze(&self) {
        self.broker().server().freeze();
    }

    /// Lets them go on.
    pub fn thaw(&self) {
        self.broker().server().thaw();
    }

    /// Raises the memory alarm: connections that publish are blocked.
    pub async fn raise_alarm(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "absolute", "1"]).await;
    }

    /// Ends the alarm.
    pub async fn clear_alarm(&self) {
        self.ctl(&["set_vm_memory_high_watermark", "absolute", broker::MEMORY]).await;
    }

    /// Force-closes all connections, of all virtual hosts.
    pub async fn close_connections(&self) {
        self.ctl(&["close_all_connections", "--global", "closed by a test"]).await;
    }

    /// The routing keys that `queue` is bound to `exchange` with.
    pub async fn bindings(&self, amqp_url: &str, exchange: &str, queue: &str) -> Vec<String> {
        let path = binding_path(amqp_url, exchange, queue);
        self.management(move |management| {
            let found = management.ask("GET", &path, "");
            let found = found.as_array().expect("bindings are a list");
            found.iter().map(|binding| text(binding, "routing_key")).collect()
        })
        .await
    }

    /// Removes all bindings of `queue` to `exchange`.
    pub async fn unbind(&self, amqp_url: &str, exchange: &str, queue: &str) {
        let path = binding_path(amqp_url, exchange, queue);
        self.management(move |management| {
            let found = management.ask("GET", &path, "");
            for binding in found.as_array().expect("bindings are a list") {
                management.ask("DELETE", &format!("{path}/{}", encode(&text(binding, "properties_key"))), "");
            }
        })
        .await;
    }

    /// Binds `queue` to `exchange`, with an empty routing key.
    pub async fn bind(&self, amqp_url: &str, exchange: &str, queue: &str) {
        let path = binding_path(amqp_url, exchange, queue);
        self.management(move |management| {
            management.ask("POST", &path, r#"{"routing_key":""}"#);
        })
        .await;
    }

    /// Makes a queue; `arguments` is a JSON object, such as `{"x-queue-type": "quorum"}`.
    pub async fn declare_queue(&self, amqp_url: &str, queue: &str, arguments: &str) {
        let path = format!("/api/queues/{}/{}", vhost_of(amqp_url), encode(queue));
        let body = format!(r#"{{"durable":true,"arguments":{arguments}}}"#);
        self.management(move |management| {
            management.ask("PUT", &path, &body);
        })
        .await;
    }

    /// Deletes a queue with all that it holds.
    pub async fn delete_queue(&self, amqp_url: &str, queue: &str) {
        let path = format!("/api/queues/{}/{}", vhost_of(amqp_url), encode(queue));
        self.management(move |management| {
            management.ask("DELETE", &path, "");
        })
        .await;
    }

    /// Deletes an exchange with its bindings.
    pub async fn delete_exchange(&self, amqp_url: &str, exchange: &str) {
        let path = format!("/api/exchanges/{}/{}", vhost_of(amqp_url), encode(exchange));
        self.management(move |management| {
            management.ask("DELETE", &path, "");
        })
        .await;
    }

    /// The names of the queues of a virtual host.
    pub async fn queues(&self, amqp_url: &str) -> Vec<String> {
        let path = format!("/api/queues/{}?columns=name", vhost_of(amqp_url));
        self.management(move |management| {
            let found = management.ask("GET", &path, "");
            found.as_array().expect("queues are a list").iter().map(|queue| text(queue, "name")).collect()
        })
        .await
    }

    /// What it printed last.
    pub fn log(&self) -> String {
        self.broker().server().printed()
    }

    async fn management<T: Send + 'static>(&self, work: impl FnOnce(&Management) -> T + Send + 'static) -> T {
        match &self.home {
            Home::Ours(broker) => {
                let broker = Arc::clone(broker);
                beside(move || work(broker.management())).await
            }
            Home::Theirs(given) => {
                let given = Arc::clone(given);
                beside(move || work(given.management())).await
            }
        }
    }

    fn broker(&self) -> &Arc<Broker> {
        match &self.home {
            Home::Ours(broker) => broker,
            Home::Theirs(_) => {
                panic!("the server at AMQP_URL is not ours to end or to alarm: use RabbitMq::start")
            }
        }
    }

    async fn beside(&self, work: impl FnOnce(&Broker) + Send + 'static) {
        let broker = Arc::clone(self.broker());
        beside(move || work(&broker)).await;
    }
}

/// The virtual host that a URL names, still encoded; `/` without one.
fn vhost_of(amqp_url: &str) -> &str {
    let rest = amqp_url.split_once("://").map_or(amqp_url, |(_, rest)| rest);
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let name = path.split('?').next().unwrap_or_default();
    if name.is_empty() { "%2F" } else { name }
}

fn binding_path(amqp_url: &str, exchange: &str, queue: &str) -> String {
    format!("/api/bindings/{}/e/{}/q/{}", vhost_of(amqp_url), encode(exchange), encode(queue))
}

fn text(value: &serde_json::Value, field: &str) -> String {
    value[field].as_str().unwrap_or_else(|| panic!("no {field} in {value}")).to_owned()
}
